"""What a run leaves behind: one JSON object a line, with the request's id in each.

    log = logger(__name__)
    log.info("document.ingested", document_id=id, pages=12, seconds=3.4)

The name is stable and the facts are fields. Never log a token or a user's text. Metrics are lines too, in
CloudWatch's Embedded Metric Format
(https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html).
"""

import json
import logging
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

NAMESPACE = "AgentKit"

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request being answered; empty outside of one."""

_round_trips: ContextVar[Counter[str] | None] = ContextVar("round_trips", default=None)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON, its facts as fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its newline."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            "function": os.environ.get("AWS_LAMBDA_FUNCTION_NAME", ""),
            "request_id": request_id.get(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        return json.dumps(line, default=str, separators=(",", ":"))


class Log:
    """A logger whose calls read as an event and its facts."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **facts: object) -> None:
        """Record something only a developer looks for."""
        self._logger.debug(event, extra={"facts": facts})

    def info(self, event: str, **facts: object) -> None:
        """Record that something happened as it should, an expected refusal included."""
        self._logger.info(event, extra={"facts": facts})

    def warning(self, event: str, *, exc_info: BaseException | None = None, **facts: object) -> None:
        """Record that something went wrong and was survived."""
        self._logger.warning(event, extra={"facts": facts}, exc_info=exc_info)

    def error(self, event: str, *, exc_info: BaseException | None = None, **facts: object) -> None:
        """Record a failure that a person should look at."""
        self._logger.error(event, extra={"facts": facts}, exc_info=exc_info)


def logger(name: str) -> Log:
    """Return the log of that module."""
    return Log(name)


@contextmanager
def counting_round_trips() -> Iterator[Counter[str]]:
    """Count the network round trips made inside, tasks started inside included: `{"redis": 1, "postgres": 2}`."""
    counter: Counter[str] = Counter()
    token = _round_trips.set(counter)
    try:
        yield counter
    finally:
        _round_trips.reset(token)


def count_round_trip(service: str) -> None:
    """Note one wait for that service, in the request that is being answered."""
    counter = _round_trips.get()
    if counter is not None:
        counter[service] += 1


def configure_logging(stream: TextIO | None = None) -> None:
    """Send log lines to `stream` (standard output) as JSON: ours from LOG_LEVEL (INFO), others from WARNING."""
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    # Lambda's own handler would print each line a second time.
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    level = os.environ.get("LOG_LEVEL", "INFO").upper()
    for ours in ("agentkit", "functions", "infra"):
        logging.getLogger(ours).setLevel(level)


def emit_metrics(
    function: str,
    metrics: Mapping[str, tuple[float, str]],
    *,
    stream: TextIO | None = None,
    **facts: object,
) -> None:
    """Write one metric line for CloudWatch, with `function` as its dimension.

    metrics: name to (value, CloudWatch unit), such as `{"StreamErrors": (1, "Count")}`. Facts are kept beside them,
    searchable but not metrics.
    """
    line = {
        "_aws": {
            "Timestamp": time.time_ns() // 1_000_000,
            "CloudWatchMetrics": [
                {
                    "Namespace": NAMESPACE,
                    "Dimensions": [["function"]],
                    "Metrics": [{"Name": name, "Unit": unit} for name, (_, unit) in metrics.items()],
                }
            ],
        },
        "function": function,
        "request_id": request_id.get(),
        **{name: value for name, (value, _) in metrics.items()},
        **facts,
    }
    print(json.dumps(line, default=str, separators=(",", ":")), file=stream or sys.stdout, flush=True)
