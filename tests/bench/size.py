"""How large each function is, unpacked: Lambda takes 250 MB, and every byte is fetched at a cold start.

python -m infra bench size
"""

from infra.functions import declared
from infra.package import installed_bytes
from tests.bench.row import Row

CHAT_MB = 120.0
# DESIGN.md's 200 MB are with bytecode, which makes half as much again.
ANY_MB = 200.0 / 1.5


def run() -> list[Row]:
    """Add up the files that each function's zip carries, without bytecode."""
    return [
        Row(
            "size",
            f"{function.name}, unpacked",
            installed_bytes(function) / 1e6,
            "MB",
            1,
            budget=CHAT_MB if function.name == "chat" else ANY_MB,
        )
        for function in declared()
    ]
