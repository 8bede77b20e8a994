"""What Lambda's event source mapping does: brings the queue's messages to the worker, and deletes what it has done.

The event's shape: https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html

The worker's answer names the messages that failed (`batchItemFailures`); those stay in the queue, come again when
their visibility ends, and go to the dead-letter queue after the last try.
"""

import asyncio
import base64
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from infra.local.lambdas import Lambdas
from infra.local.runtime_api import FunctionFailed

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

WORKER = "worker"
BATCH = 5
WAIT_SECONDS = 2
AWAY_SECONDS = 1.0

log = logging.getLogger(__name__)


async def poll(lambdas: Lambdas, environment: Mapping[str, str]) -> None:
    """Go on until cancelled; a queue that is out of reach is asked again a second later."""
    if WORKER not in lambdas.functions or not environment.get("JOBS_QUEUE_URL"):
        return
    url = environment["JOBS_QUEUE_URL"]
    sqs = await asyncio.to_thread(_client, environment)
    while True:
        try:
            await _once(lambdas, sqs, url)
        except Exception as error:  # noqa: BLE001  # the queue is away, the worker's answer makes no sense: go on
            log.warning("queue.unavailable: %r", error)
            await asyncio.sleep(AWAY_SECONDS)


def _client(environment: Mapping[str, str]) -> "SQSClient":
    import boto3
    from botocore.config import Config

    once = Config(connect_timeout=2, read_timeout=WAIT_SECONDS + 3, retries={"total_max_attempts": 1})
    return boto3.Session().client("sqs", endpoint_url=environment.get("AWS_ENDPOINT_URL"), config=once)


async def _once(lambdas: Lambdas, sqs: "SQSClient", url: str) -> None:
    received = await asyncio.to_thread(
        sqs.receive_message,
        QueueUrl=url,
        MaxNumberOfMessages=BATCH,
        WaitTimeSeconds=WAIT_SECONDS,
        AttributeNames=["All"],
        MessageAttributeNames=["All"],
    )
    messages = received.get("Messages", [])
    if not messages:
        return
    event = {"Records": [_record(message, url, sqs.meta.region_name) for message in messages]}
    try:
        invocation = await lambdas.invoke(WORKER, json.dumps(event).encode())
        answer = json.loads(await invocation.payload())
    except FunctionFailed as failure:
        # As in Lambda: the whole batch comes again.
        log.error("worker.failed: %s", failure.document)  # its own log has the traceback
        return
    failed = _failed(answer, {message["MessageId"] for message in messages})
    for message in messages:
        if message["MessageId"] not in failed:
            await asyncio.to_thread(sqs.delete_message, QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


def _failed(answer: Any, batch: set[str]) -> set[str]:  # noqa: ANN401  # JSON
    """Return the messages that the worker says have failed; all of them when its answer makes no sense.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html, "Success and failure conditions".
    """
    items = (answer or {}).get("batchItemFailures") or []
    named = {item.get("itemIdentifier") for item in items}
    return batch if named - batch else named


def _record(message: Any, url: str, region: str) -> dict[str, Any]:  # noqa: ANN401  # boto3's message
    """Return the message as Lambda passes it on."""
    account, name = url.rsplit("/", 2)[-2:]
    attributes = {
        name: {
            **_value(value),
            "stringListValues": [],
            "binaryListValues": [],
            "dataType": value["DataType"],
        }
        for name, value in message.get("MessageAttributes", {}).items()
    }
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message.get("Attributes", {}),
        "messageAttributes": attributes,
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:{region}:{account}:{name}",
        "awsRegion": region,
    }


def _value(attribute: Any) -> dict[str, str]:  # noqa: ANN401  # boto3's
    if "BinaryValue" in attribute:
        return {"binaryValue": base64.b64encode(attribute["BinaryValue"]).decode()}
    return {"stringValue": attribute["StringValue"]}
