"""What a queue may find at its other end: each message says what becomes of it, and each event is kept in `SEEN`."""

import json
import os
from pathlib import Path
from typing import Any


def handler(event: dict[str, Any], _: Any) -> Any:
    """Keep the event; then fail, crash, raise or answer as its first message says."""
    with Path(os.environ["SEEN"]).open("a") as file:
        file.write(json.dumps(event) + "\n")
    said = {record["messageId"]: json.loads(record["body"]) for record in event["Records"]}
    if "crash" in said.values():
        os._exit(3)
    if "raise" in said.values():
        raise ValueError("the worker cannot go on")
    answers = [each["answer"] for each in said.values() if isinstance(each, dict)]
    if answers:
        return answers[0]
    return {"batchItemFailures": [{"itemIdentifier": message} for message, what in said.items() if what == "fail"]}
