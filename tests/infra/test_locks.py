"""Every function's packages are locked by hash, and small enough for its budget."""

import re

import pytest

from infra.functions import declared
from infra.locks import DATA, DEV, faults, requirements_of
from infra.package import installed_bytes

LOCKS = [DEV, DATA, *(requirements_of(function) for function in declared())]
# Unpacked, without bytecode. Lambda's limit is 250 MB and ours 200 with bytecode, which `make package` measures: it
# adds a fifth to the largest (the worker's 150 MB become 180).
CHAT_BYTES = 120_000_000
ANY_BYTES = 160_000_000


def test_the_locks_hold_what_the_project_asks_for():
    assert faults() == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_locked_package_has_a_hash(lock):
    pinned = re.split(r"^(?=[A-Za-z0-9])", lock.read_text(), flags=re.MULTILINE)[1:]
    assert pinned
    assert [block.split()[0] for block in pinned if "--hash=sha256:" not in block] == []


@pytest.mark.parametrize("function", declared(), ids=lambda function: function.name)
def test_a_functions_zip_stays_within_its_budget(function):
    assert installed_bytes(function) <= (CHAT_BYTES if function.name == "chat" else ANY_BYTES)
