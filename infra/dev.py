"""`make dev`: the local stack until Ctrl-C, with what a person needs to use it, and how far each ingestion is."""

import signal
import sys
from pathlib import Path
from types import FrameType

from infra.functions import ROOT
from infra.local.display import Display
from infra.local.part import PartFailed
from infra.local.progress import following
from infra.local.stack import FOLDER, AlreadyRunning, Stack

# Ctrl-C, a supervisor's stop, a closed terminal.
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(Exception):  # noqa: N818  # reads as what happened
    """Someone asked us to end."""


def main(folder: Path = FOLDER) -> int:
    """Keep the stack up; 0 when it was ended by Ctrl-C or SIGTERM, 1 when a part failed, 2 when one is up already."""

    def end(_: int, __: FrameType | None) -> None:
        # The parts are being stopped from here on: an impatient second Ctrl-C must not leave some of them.
        for name in ENDINGS:
            signal.signal(name, signal.SIG_IGN)
        raise Ended

    # SIGINT too: a shell that starts us in the background has it ignored.
    for name in ENDINGS:
        signal.signal(name, end)
    stack = Stack(folder)
    print("Starting the local stack …", flush=True)
    try:
        with stack:
            _print_summary(stack, folder)
            with following(stack.environment["ADMIN_DATABASE_URL"], Display()):
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


def _print_summary(stack: Stack, folder: Path) -> None:
    environment = stack.environment
    url = environment["AGENTKIT_URL"]
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stack.seconds.items())
    shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    lines = [
        f"Ready ({times}).",
        "",
        f"  functions   {url}/v1/…          {url}/docs",
        f"  sign-in     {environment['SUPABASE_URL']}",
        f"  model       {environment['CHAT_MODEL']} at {environment['OPENAI_BASE_URL']}",
        f"  people      {', '.join(environment[f'DEMO_{name}_EMAIL'] for name in ('ADA', 'BOB', 'ADMIN'))}",
        f"              password: {environment['DEMO_ADA_PASSWORD']}",
        f"  variables   {shown}/env",
        f"  logs        {shown}/logs/",
        "",
        "Ctrl-C ends it. Code under functions/ and shared/ is reloaded when it changes.",
        "What is being ingested is shown here:",
    ]
    print("\n".join(lines), flush=True)
