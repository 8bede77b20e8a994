"""`make dev`: the local stack until Ctrl-C, with what a person needs to use it."""

import signal
import sys
from types import FrameType

from infra.functions import ROOT
from infra.local.part import PartFailed
from infra.local.stack import AlreadyRunning, Stack


class Ended(Exception):  # noqa: N818  # reads as what happened
    """Someone asked us to end."""


def main() -> int:
    """Keep the stack up; 0 when it was ended by Ctrl-C or SIGTERM, 1 when a part failed, 2 when one is up already."""

    def end(_: int, __: FrameType | None) -> None:
        raise Ended

    # SIGINT too: a shell that starts us in the background has it ignored.
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    stack = Stack()
    print("Starting the local stack …", flush=True)
    try:
        with stack:
            _print_summary(stack)
            stack.watch()
    except Ended:
        print("\nStopped.")
        return 0
    except AlreadyRunning as running:
        print(running, file=sys.stderr)
        return 2
    except PartFailed as failure:
        print(f"\n{failure}\nThe stack has been stopped.", file=sys.stderr)
        return 1
    return 0


def _print_summary(stack: Stack) -> None:
    environment = stack.environment
    url = environment["AGENTKIT_URL"]
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stack.seconds.items())
    lines = [
        f"Ready ({times}).",
        "",
        f"  functions   {url}/v1/…          {url}/docs",
        f"  sign-in     {environment['SUPABASE_URL']}",
        f"  model       {environment['CHAT_MODEL']} at {environment['OPENAI_BASE_URL']}",
        f"  people      {', '.join(environment[f'DEMO_{name}_EMAIL'] for name in ('ADA', 'BOB', 'ADMIN'))}",
        f"              password: {environment['DEMO_ADA_PASSWORD']}",
        f"  variables   {(ROOT / '.local' / 'env').relative_to(ROOT)}",
        f"  logs        {(ROOT / '.local' / 'logs').relative_to(ROOT)}/",
        "",
        "Ctrl-C ends it. Code under functions/ and shared/ is reloaded when it changes.",
    ]
    print("\n".join(lines), flush=True)
