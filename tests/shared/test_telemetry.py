"""A log line is one JSON object; a metric line is CloudWatch's Embedded Metric Format."""

import io
import json
import logging

import pytest

from agentkit import telemetry


@pytest.fixture
def lines():
    written = io.StringIO()
    telemetry.configure_logging(written)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    logging.getLogger().handlers.clear()


def test_a_line_holds_the_event_its_facts_and_the_requests_id(lines):
    token = telemetry.request_id.set("req-00000001")
    telemetry.logger("agentkit.sample").info("document.ingested", pages=12, title="a\nb")
    telemetry.request_id.reset(token)
    (line,) = lines()
    assert (line["event"], line["pages"], line["title"]) == ("document.ingested", 12, "a\nb")
    assert (line["level"], line["logger"], line["request_id"]) == ("info", "agentkit.sample", "req-00000001")


def test_an_exception_stays_on_its_one_line(lines):
    try:
        raise ValueError("seven")
    except ValueError as error:
        telemetry.logger("agentkit.sample").error("sum.failed", exc_info=error)
    (line,) = lines()
    assert line["exception"].rstrip().endswith("ValueError: seven")


def test_libraries_are_heard_from_warning_on(lines):
    logging.getLogger("httpx").info("every request")
    logging.getLogger("httpx").warning("something odd")
    assert [line["event"] for line in lines()] == ["something odd"]


def test_a_metric_line_follows_the_embedded_metric_format():
    written = io.StringIO()
    telemetry.emit_metrics("chat", {"StreamErrors": (1, "Count"), "FirstToken": (0.4, "Seconds")}, stream=written)
    line = json.loads(written.getvalue())
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["function"]]
    assert directive["Metrics"] == [
        {"Name": "StreamErrors", "Unit": "Count"},
        {"Name": "FirstToken", "Unit": "Seconds"},
    ]
    # The format asks that each named metric and dimension stands at the top level.
    assert (line["function"], line["StreamErrors"], line["FirstToken"]) == ("chat", 1, 0.4)
    assert line["_aws"]["Timestamp"] > 1_700_000_000_000  # milliseconds
