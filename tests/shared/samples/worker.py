"""What a queue or a schedule may find at its other end: each event is kept in `SEEN`.

Each message says what becomes of it; `wait` is answered when there is a file `GO`. `raise` in the
variable `OTHERWISE` is said to every event.
"""

import json
import os
import time
from pathlib import Path
from typing import Any


def handler(event: dict[str, Any], _: Any) -> Any:
    """Keep the event; then fail, wait, crash, raise or answer as its first message says."""
    with Path(os.environ["SEEN"]).open("a") as file:
        file.write(json.dumps(event) + "\n")
    said = {record["messageId"]: json.loads(record["body"]) for record in event.get("Records", ())}
    if "crash" in said.values():
        os._exit(3)
    if "raise" in [*said.values(), os.environ.get("OTHERWISE")]:
        raise ValueError("the worker cannot go on")
    while "wait" in said.values() and not Path(os.environ["GO"]).exists():
        time.sleep(0.01)
    answers = [each["answer"] for each in said.values() if isinstance(each, dict)]
    if answers:
        return answers[0]
    return {"batchItemFailures": [{"itemIdentifier": message} for message, what in said.items() if what == "fail"]}
