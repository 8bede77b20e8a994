"""What `pyproject.toml` declares is what each function is."""

import pytest

from infra.functions import Function, declared


@pytest.mark.parametrize(
    ("invoked", "has_url"),
    [({}, True), ({"queue": "jobs"}, False), ({"schedule": "rate(5 minutes)"}, False)],
)
def test_only_a_function_that_no_queue_and_no_schedule_invokes_has_a_url(invoked, has_url):
    assert Function("sample", **invoked).has_url is has_url


def test_each_queue_has_one_function():
    queues = [function.queue for function in declared() if function.queue]
    assert len(queues) == len(set(queues))
    assert set(queues) <= {"jobs", "dead-letter"}
