"""S3 and SQS: moto's server with the bucket and the queues that the functions use in AWS.

An object that is made is told to the jobs' queue, as a bucket's notifications are in AWS.

moto keeps everything in memory. A stack that starts again has an empty bucket and empty queues: documents that were
ready stay ready (their passages are in Postgres), an upload that was not ingested yet is to be made again, and
a job whose message was lost is sent again by `maintenance`.
moto checks no signatures, so a presigned URL that expired or was altered is refused in AWS and works here.
"""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from infra.local.part import LOOPBACK, PartFailed, Process, free_port

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CORSRuleTypeDef
    from mypy_boto3_sqs import SQSClient

REGION = "us-east-1"
# moto's one account.
ACCOUNT = "123456789012"
BUCKET = "documents"
QUEUE = "jobs"
DEAD_LETTER_QUEUE = "jobs-dead-letter"


class Aws:
    """The part: a moto server, given its bucket and queues each time it starts."""

    name = "aws"

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        allowed_origins: Sequence[str] = ("http://localhost:3000",),
        visibility_seconds: int = 360,
        max_receives: int = 5,
        notifies: bool = False,
    ) -> None:
        """`visibility_seconds`: how long a message that was received stays hidden, unless its function says otherwise.

        `notifies`: the jobs' queue is told of new objects.
        """
        self.port = port or free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._allowed_origins = list(allowed_origins)
        self._visibility_seconds = visibility_seconds
        self._max_receives = max_receives
        self._notifies = notifies
        self._process = Process(
            self.name,
            [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(self.port)],
            log=folder / "logs" / "aws.log",
            # Browsers are answered by the bucket's own CORS rules, as in AWS.
            env={"MOTO_DISABLE_GLOBAL_CORS": "true", "MOTO_PORT": str(self.port)},
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """Where boto3 finds the server, the bucket and the queue."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": REGION,
            "STORAGE_BUCKET": BUCKET,
            "JOBS_QUEUE_URL": self._queue_url(QUEUE),
            "JOBS_DEAD_LETTER_QUEUE_URL": self.dead_letter_queue_url,
            "JOBS_MAX_RECEIVES": str(self._max_receives),
        }

    @property
    def dead_letter_queue_url(self) -> str:
        """Where messages go that were received too often."""
        return self._queue_url(DEAD_LETTER_QUEUE)

    @cached_property
    def s3(self) -> "S3Client":
        """A client of the storage."""
        return self._session().client("s3", endpoint_url=self.url)

    @cached_property
    def sqs(self) -> "SQSClient":
        """A client of the queues."""
        return self._session().client("sqs", endpoint_url=self.url)

    def start(self) -> None:
        """Return once the server answers and has its bucket and queues."""
        self._process.start(self._answers)
        self.prepare()

    def prepare(self) -> None:
        """Create the bucket and the queues in an empty server."""
        self._create_bucket()
        self._create_queues()
        if self._notifies:
            self._have_uploads_told()

    def stop(self) -> None:
        """End the server; what it held is gone."""
        self._process.stop()
        for client in ("s3", "sqs"):
            if client in self.__dict__:
                self.__dict__.pop(client).close()

    def failure(self) -> str | None:
        """Why it is not running, or None while it runs."""
        return self._process.failure()

    def _queue_url(self, name: str) -> str:
        return f"{self.url}/{ACCOUNT}/{name}"

    def _session(self) -> "boto3.Session":
        import boto3

        return boto3.Session(
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region_name=REGION,
        )

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/moto-api/", timeout=5).close()  # noqa: S310  # our own loopback URL
        except (urllib.error.URLError, OSError):
            return False
        return True

    def _create_bucket(self) -> None:
        self.s3.create_bucket(Bucket=BUCKET)
        rule: CORSRuleTypeDef = {
            "AllowedOrigins": self._allowed_origins,
            "AllowedMethods": ["PUT", "GET"],
            "AllowedHeaders": ["content-type"],
            "MaxAgeSeconds": 3600,
        }
        self.s3.put_bucket_cors(Bucket=BUCKET, CORSConfiguration={"CORSRules": [rule]})

    def _have_uploads_told(self) -> None:
        self.s3.put_bucket_notification_configuration(
            Bucket=BUCKET,
            NotificationConfiguration={
                "QueueConfigurations": [{"QueueArn": _arn(QUEUE), "Events": ["s3:ObjectCreated:*"]}]
            },
        )

    def _create_queues(self) -> None:
        self.sqs.create_queue(QueueName=DEAD_LETTER_QUEUE)
        redrive = {
            "deadLetterTargetArn": _arn(DEAD_LETTER_QUEUE),
            "maxReceiveCount": self._max_receives,
        }
        created = self.sqs.create_queue(
            QueueName=QUEUE,
            Attributes={"VisibilityTimeout": str(self._visibility_seconds), "RedrivePolicy": json.dumps(redrive)},
        )
        # Clients may have been told the URL before the server ran.
        if created["QueueUrl"] != self._queue_url(QUEUE):
            raise PartFailed(f"{self.name} put its queue at {created['QueueUrl']}, not at {self._queue_url(QUEUE)}.")


def _arn(queue: str) -> str:
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}"
