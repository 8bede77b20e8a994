"""What Lambda's event source mapping does: brings a queue's messages to its function, and deletes what it has done.

The event's shape: https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html

Batches are brought side by side, as many as the function has sandboxes; messages that nobody could take stay in the
queue. The function's answer names the messages that failed (`batchItemFailures`); those stay too, come again when
their visibility ends, and go to the dead-letter queue after the last try.
"""

import asyncio
import base64
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from infra.local.lambdas import Lambdas, LocalFunction
from infra.local.runtime_api import FunctionFailed

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import DeleteMessageBatchRequestEntryTypeDef

# The variable that holds the address of each queue that a function may name.
QUEUES = {"jobs": "JOBS_QUEUE_URL", "dead-letter": "JOBS_DEAD_LETTER_QUEUE_URL"}
BATCH = 5
WAIT_SECONDS = 2
AWAY_SECONDS = 1.0

log = logging.getLogger(__name__)


async def poll(lambdas: Lambdas, environment: Mapping[str, str]) -> None:
    """Go on until cancelled, for each function that has a queue; one out of reach is asked again a second later."""
    sources = [
        (function, environment[QUEUES[function.function.queue]])
        for function in lambdas.functions.values()
        if function.function.queue and environment.get(QUEUES[function.function.queue])
    ]
    if not sources:
        return
    sqs = await asyncio.to_thread(_client, environment)
    async with asyncio.TaskGroup() as polls:
        for function, url in sources:
            polls.create_task(_Source(function, sqs, url).poll())


def _client(environment: Mapping[str, str]) -> "SQSClient":
    import boto3
    from botocore.config import Config

    once = Config(connect_timeout=2, read_timeout=WAIT_SECONDS + 3, retries={"total_max_attempts": 1})
    return boto3.Session().client("sqs", endpoint_url=environment.get("AWS_ENDPOINT_URL"), config=once)


class _Source:
    """One queue and its function."""

    def __init__(self, function: LocalFunction, sqs: "SQSClient", url: str) -> None:
        self._function = function
        self._sqs = sqs
        self._url = url
        self._free = asyncio.Semaphore(function.limits.sandboxes)

    async def poll(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as batches:
            while True:
                await self._free.acquire()
                messages = await self._received()
                if messages:
                    task = batches.create_task(self._bring(messages))
                    task.add_done_callback(lambda _: self._free.release())
                else:
                    self._free.release()

    async def _received(self) -> list[Any]:
        try:
            received = await asyncio.to_thread(
                self._sqs.receive_message,
                QueueUrl=self._url,
                MaxNumberOfMessages=BATCH,
                WaitTimeSeconds=WAIT_SECONDS,
                AttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
        except Exception as error:  # noqa: BLE001  # the queue is away: go on
            await self._survive(error)
            return []
        return list(received.get("Messages", []))

    async def _bring(self, messages: list[Any]) -> None:
        name = self._function.function.name
        event = {"Records": [_record(message, self._url, self._sqs.meta.region_name) for message in messages]}
        try:
            invocation = await self._function.invoke(json.dumps(event).encode())
            answer = json.loads(await invocation.payload())
            failed = _failed(answer, {message["MessageId"] for message in messages})
            done: list[DeleteMessageBatchRequestEntryTypeDef] = [
                {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                for number, message in enumerate(messages)
                if message["MessageId"] not in failed
            ]
            if done:
                await asyncio.to_thread(self._sqs.delete_message_batch, QueueUrl=self._url, Entries=done)
        except FunctionFailed as failure:
            # As in Lambda: the whole batch comes again.
            log.error("%s.failed: %s", name, failure.document)  # its own log has the traceback
        except Exception as error:  # noqa: BLE001  # the queue is away, the answer makes no sense: go on
            await self._survive(error)

    async def _survive(self, error: Exception) -> None:
        log.warning("queue.unavailable: %r", error)
        await asyncio.sleep(AWAY_SECONDS)


def _failed(answer: Any, batch: set[str]) -> set[str]:  # noqa: ANN401  # JSON
    """Return the messages that the function says have failed; all of them when its answer makes no sense.

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
