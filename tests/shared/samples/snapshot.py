"""A function that registers what SnapStart should run around its snapshot."""

import os
from typing import Any

from snapshot_restore_py import register_after_restore, register_before_snapshot

done: list[str] = []


@register_before_snapshot  # type: ignore[untyped-decorator]  # AWS's module has no annotations
def close_connections() -> None:
    """Run before the picture is taken."""
    done.append("before")


@register_after_restore  # type: ignore[untyped-decorator]  # likewise
async def seed_randomness() -> None:
    """Run in each copy."""
    if os.environ.get("FAIL_AFTER_RESTORE"):
        raise OSError("no entropy")
    done.append("after")


def handler(event: Any, context: Any) -> list[str]:
    """Say what has run."""
    return done
