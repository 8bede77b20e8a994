"""Every function's packages are locked by hash, as the project asks for them and as the tests run with them."""

import re

import pytest

from infra.functions import declared
from infra.locks import DATA, DEV, differences, faults, installation_faults, lock_faults, requirements_of

LOCKS = [DEV, DATA, *(requirements_of(function) for function in declared())]


@pytest.fixture
def lock(tmp_path):
    """Write a lock file: `lock("httpx==0.28.1", name="requirements-dev.txt")`; returns its path."""

    def write(*pins, name="requirements.txt", remark=""):
        path = tmp_path / name
        path.write_text(remark + "".join(f"{pin} \\\n    --hash=sha256:{'0' * 64}\n    # via x\n" for pin in pins))
        return path

    return write


def test_nothing_is_wrong_with_the_locks():
    assert faults() == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_locked_package_has_a_hash(lock):
    pinned = re.split(r"^(?=[A-Za-z0-9])", lock.read_text(), flags=re.MULTILINE)[1:]
    assert pinned
    assert [block.split()[0] for block in pinned if "--hash=sha256:" not in block] == []


def test_a_lock_that_holds_what_is_wanted_has_no_fault(lock):
    assert lock_faults(lock("httpx==0.28.1", "pyjwt==2.15.1"), ["httpx>=0.28.1", "PyJWT[crypto]>=2.15,<3"]) == []


def test_a_missing_lock_is_a_fault(tmp_path):
    (sentence,) = lock_faults(tmp_path / "requirements.txt", [])
    assert sentence.endswith("requirements.txt is missing; run `make lock`.")


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param("httpx>=0.29", id="newer"),
        pytest.param("httpx<0.28.1", id="older"),
        pytest.param("httpx!=0.28.1", id="another"),
        pytest.param("h11", id="a package that is not locked"),
    ],
)
def test_what_is_locked_outside_its_range_is_a_fault(lock, wanted):
    (sentence,) = lock_faults(lock("httpx==0.28.1"), [wanted])
    assert sentence.endswith(f"does not lock {wanted}; run `make lock`.")


def test_one_version_for_each_range_of_pythons_is_no_fault(lock):
    two = lock("numpy==2.4.1 ; python_full_version < '3.12'", "numpy==2.5.5 ; python_full_version >= '3.12'")
    assert lock_faults(two, ["numpy>=2.5"]) == []


def test_a_download_host_is_a_fault(lock):
    (sentence,) = lock_faults(lock("httpx==0.28.1", remark="--index-url https://index.test/simple\n"), [])
    assert sentence.endswith("requirements.txt names a download host.")


def test_a_function_locked_to_other_versions_than_the_tests_run_with_is_a_fault(lock):
    tested = lock("websockets==15.0.1", "httpx==0.28.1", name="requirements-dev.txt")
    found = differences(lock("websockets==17.4", "httpx==0.28.1", "idna==3.20"), tested)
    assert [re.sub(r"\S*/", "", sentence) for sentence in found] == [
        "requirements.txt locks websockets 17.4, and requirements-dev.txt 15.0.1; run `make lock`.",
        "requirements.txt locks idna 3.20, and requirements-dev.txt none; run `make lock`.",
    ]


def test_what_is_installed_otherwise_than_locked_is_a_fault(lock):
    odd = lock("pytest==0.0.1", "nobody-has-this==1.0", "left-out==1.0 ; python_full_version < '3'")
    other, nothing = installation_faults(odd)
    assert f"locks pytest 0.0.1, and {pytest.__version__} is installed" in other
    assert "locks nobody-has-this 1.0, and nothing of it is installed" in nothing
