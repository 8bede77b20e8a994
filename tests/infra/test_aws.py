"""The local S3 and SQS keep the promises of AWS's that the functions build on."""

import json
import os
import signal
from urllib.parse import unquote_plus

import httpx
import pytest

from infra.local.aws import BUCKET, Aws

ALLOWED, OTHER = "http://localhost:3000", "https://evil.test"


def preflight(aws, origin):
    return httpx.options(
        f"{aws.url}/{BUCKET}/some/key",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "content-type",
        },
    )


def receive(aws, url):
    return aws.sqs.receive_message(QueueUrl=url, VisibilityTimeout=0).get("Messages", [])


def test_a_browser_on_an_allowed_origin_may_upload(aws):
    answer = preflight(aws, ALLOWED)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ALLOWED
    assert "PUT" in answer.headers["access-control-allow-methods"]


def test_a_browser_on_another_origin_may_not(aws):
    answer = preflight(aws, OTHER)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_browsers_may_upload_from_wherever_they_may_call_the_functions(stack):
    origins = json.loads(stack.environment["ALLOWED_ORIGINS"])
    assert len(origins) > 1
    for origin in origins:
        url = f"{stack.environment['AWS_ENDPOINT_URL']}/{BUCKET}/some/key"
        answer = httpx.options(url, headers={"Origin": origin, "Access-Control-Request-Method": "PUT"})
        assert answer.headers["access-control-allow-origin"] == origin


def test_a_message_received_too_often_goes_to_the_dead_letter_queue(aws):
    queue = aws.environment["JOBS_QUEUE_URL"]
    aws.sqs.send_message(QueueUrl=queue, MessageBody="never understood")
    received = [len(receive(aws, queue)) for _ in range(int(aws.environment["JOBS_MAX_RECEIVES"]) + 1)]
    assert received == [1, 1, 1, 0]
    (dead,) = receive(aws, aws.dead_letter_queue_url)
    assert dead["Body"] == "never understood"


def test_a_message_that_is_worked_on_is_hidden_from_others(aws):
    queue = aws.environment["JOBS_QUEUE_URL"]
    aws.sqs.send_message(QueueUrl=queue, MessageBody="work")
    assert len(aws.sqs.receive_message(QueueUrl=queue)["Messages"]) == 1
    assert "Messages" not in aws.sqs.receive_message(QueueUrl=queue)


def test_it_says_that_it_died_and_stopping_it_then_does_nothing(tmp_path):
    server = Aws(tmp_path)
    server.start()
    assert server.failure() is None
    pid = server._process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert str(server.failure()).startswith("aws ended with status -9.")
    server.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


def test_the_environment_is_known_before_it_starts(tmp_path):
    environment = Aws(tmp_path, port=4566).environment
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4566"
    assert environment["JOBS_QUEUE_URL"].startswith("http://127.0.0.1:4566/")


def test_the_jobs_queue_is_told_of_an_upload(tmp_path):
    server = Aws(tmp_path, notifies=True)
    server.start()
    try:
        queue = server.environment["JOBS_QUEUE_URL"]
        stored = server.s3.put_object(Bucket=BUCKET, Key="ada/1/a b.pdf", Body=b"12345")
        told = server.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=5)["Messages"]
        notices = [notice for message in told for notice in json.loads(message["Body"]).get("Records", ())]
    finally:
        server.stop()
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
    (notice,) = notices
    assert notice["eventName"] == "ObjectCreated:Put"
    assert notice["s3"]["bucket"]["name"] == BUCKET
    assert notice["s3"]["object"]["size"] == 5
    assert notice["s3"]["object"]["eTag"] == stored["ETag"].strip('"')
    assert unquote_plus(notice["s3"]["object"]["key"]) == "ada/1/a b.pdf"


def test_nothing_is_told_of_uploads_where_nobody_asked_for_it(aws):
    aws.s3.put_object(Bucket=BUCKET, Key="ada/1/a.pdf", Body=b"12345")
    assert receive(aws, aws.environment["JOBS_QUEUE_URL"]) == []
