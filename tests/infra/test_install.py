"""What `make` installs, and when: the real installer in a small project whose only package is a uv of its own."""

import ast
import base64
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from infra import install
from infra.functions import ROOT

# It writes down what it was asked, and ends as the test wants it to.
UV = """
import json, os, sys
def main():
    with open(os.environ["ASKED"], "a") as asked:
        asked.write(json.dumps(sys.argv[1:]) + "\\n")
    sys.exit(int(os.environ.get("UV_STATUS", "0")))
"""


def wheel_of_uv(folder):
    """Put a wheel into the folder that installs `bin/uv`; return its SHA-256."""
    files = {
        "uv_of_the_test.py": UV,
        "uv-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: uv\nVersion: 1.0\n",
        "uv-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "uv-1.0.dist-info/entry_points.txt": "[console_scripts]\nuv = uv_of_the_test:main\n",
    }
    digests = {name: hashlib.sha256(text.encode()).digest() for name, text in files.items()}
    record = [f"{name},sha256={base64.urlsafe_b64encode(d).rstrip(b'=').decode()}," for name, d in digests.items()]
    files["uv-1.0.dist-info/RECORD"] = "\n".join([*record, "uv-1.0.dist-info/RECORD,,", ""])
    wheel = folder / "uv-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as out:
        for name, text in files.items():
            out.writestr(name, text)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


class Project:
    """A checkout that has nothing but the installer, its locks and its metadata."""

    def __init__(self, folder, wheels):
        self.root = folder / "a project"  # with a space, as some people's folders have
        (self.root / "infra").mkdir(parents=True)
        shutil.copy(ROOT / "infra" / "install.py", self.root / "infra")
        wheels.mkdir(exist_ok=True)
        self.digest = wheel_of_uv(wheels)
        self.lock = self.root / "infra" / "requirements-dev.txt"
        self.lock.write_text(
            f"first==1 \\\n    --hash=sha256:00\nuv==1.0 \\\n    --hash=sha256:{self.digest}\n    # via me\n"
        )
        self.data = self.root / "infra" / "requirements-data.txt"
        self.data.write_text("")
        (self.root / "pyproject.toml").write_text("")
        self._asked = folder / "asked"
        self.environment = {
            **os.environ,
            "ASKED": str(self._asked),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
            "PIP_CONFIG_FILE": os.devnull,
        }

    def command(self, before="pass"):
        """Run the installer as `make` does, in a Python where `before` has been done."""
        path = str(self.root / "infra" / "install.py")
        return [sys.executable, "-c", f"{before}\nimport runpy; runpy.run_path({path!r}, run_name='__main__')"]

    def install(self, before="pass", **environment):
        return subprocess.run(
            self.command(before), env=self.environment | environment, capture_output=True, text=True, check=False
        )

    def asked(self):
        """What uv was asked since the last time."""
        lines = self._asked.read_text().splitlines() if self._asked.exists() else []
        self._asked.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path, tmp_path / "wheels")


def test_what_is_locked_is_installed_by_hash_once_and_again_when_a_lock_changes(project):
    first = project.install()
    assert (first.returncode, first.stderr) == (0, "")
    packages, data, itself = project.asked()
    for request, lock in ((packages, project.lock), (data, project.data)):
        assert "--require-hashes" in request
        assert request[-1] == str(lock)
    assert itself[-3:] == ["--no-deps", "--editable", str(project.root)]

    second = project.install()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert project.asked() == []

    project.lock.write_text(project.lock.read_text().replace("first==1", "first==2"))
    assert project.install().returncode == 0
    assert len(project.asked()) == 3


def test_an_installation_that_failed_ends_with_its_status_and_is_made_anew(project):
    failed = project.install(UV_STATUS="7")
    assert failed.returncode != 0
    assert failed.stderr.startswith("Failed with status 7: ")
    assert len(project.asked()) == 1
    assert project.install().returncode == 0
    assert len(project.asked()) == 3


def test_an_installer_other_than_the_locked_one_is_not_run(project):
    project.lock.write_text(project.lock.read_text().replace(project.digest, "0" * 64))
    refused = project.install()
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert project.asked() == []


def test_a_second_run_waits_for_the_first_and_then_has_nothing_to_do(project):
    folder = project.root / ".local"
    folder.mkdir()
    with (folder / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(
            project.command(), env=project.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as waiting:
            assert waiting.stdout is not None
            assert "waiting" in waiting.stdout.readline()
            fingerprint = "import runpy, sys; print(runpy.run_path(sys.argv[1])['fingerprint']())"
            path = project.root / "infra" / "install.py"
            wanted = subprocess.check_output([sys.executable, "-c", fingerprint, path], text=True).strip()
            (project.root / ".venv" / "bin").mkdir(parents=True)
            (project.root / ".venv" / "bin" / "python").touch()
            (project.root / ".venv" / "installed").write_text(wanted)
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert waiting.communicate(timeout=60) == ("", "")
    assert waiting.returncode == 0
    assert project.asked() == []


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        pytest.param((3, 10, 13), "3.11 or newer", id="too old"),
        pytest.param((3, 15, 0), "3.14 or older", id="too new"),
    ],
)
def test_a_python_of_another_age_is_refused_in_a_sentence(project, version, wanted):
    name = ".".join(map(str, version))
    refused = project.install(f"import sys; sys.version_info = {version}; sys.version = '{name} (main)'")
    assert refused.returncode == 1
    assert refused.stderr == f"Python {wanted} is needed; {sys.executable} is {name}. Try: make PYTHON=...\n"


def test_the_installer_asks_for_the_pythons_that_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == "".join(
        (">=", ".".join(map(str, install.NEEDED)), ",<", ".".join(map(str, install.TOO_NEW)))
    )


def test_a_python_that_is_too_old_can_read_the_sentence():
    ast.parse((ROOT / "infra" / "install.py").read_text(), feature_version=(3, 7))


def test_a_python_that_cannot_make_environments_is_told_what_to_install(project):
    refused = project.install("import sys; sys.modules['ensurepip'] = None")
    assert refused.returncode == 1
    assert f"apt install python3.{sys.version_info.minor}-venv" in refused.stderr
    assert not (project.root / ".venv").exists()
