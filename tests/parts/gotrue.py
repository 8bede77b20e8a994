"""Supabase's own sign-in server (GoTrue), over the real Postgres, where its program is on the machine.

`GOTRUE_BINARY` names the program (supabase/auth at v2.196.0 was compared); it carries its migrations.
"""

import json
import os
import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from agentkit import auth
from infra.local.part import LOOPBACK, Process, free_port
from infra.local.postgres import Postgres
from tests.parts.beside import beside

PREFIX = "/auth/v1"
LOGIN = "supabase_auth_admin"


class Gateway(ThreadingHTTPServer):
    """What Supabase puts before GoTrue: its paths under /auth/v1, and nothing else."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__((LOOPBACK, 0), Passing)
        self.upstream = upstream
        self.url = f"http://{LOOPBACK}:{self.server_port}"


class Passing(BaseHTTPRequestHandler):
    """One request on its way."""

    server: Gateway

    def _pass(self) -> None:
        path = self.path.removeprefix(PREFIX)
        if path == self.path:
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kept = {name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers}
        answer = httpx.request(self.command, self.server.upstream + path, content=body, headers=kept)
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        if answer.status_code != httpx.codes.NO_CONTENT:
            self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = do_PUT = _pass  # noqa: N815  # http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def gateway_to(upstream: str) -> Iterator[str]:
    """Where the gateway answers, while it does."""
    gateway = Gateway(upstream)
    with beside(gateway):
        yield gateway.url


def database_for(server: Postgres) -> str:
    """The address of a database as GoTrue's own init script leaves it: its login, its schema, no extension."""
    name, password = "gotrue", secrets.token_urlsafe(18)
    with psycopg.connect(server.url("postgres", "postgres"), autocommit=True) as connection:
        connection.execute(f"create role {LOGIN} login noinherit createrole password '{password}'".encode())
        connection.execute(f"create database {name}".encode())
        connection.execute(f"grant create on database {name} to {LOGIN}".encode())
    with psycopg.connect(server.url(name, "postgres"), autocommit=True) as connection:
        connection.execute(f"create schema auth authorization {LOGIN}".encode())
    return f"postgresql://{LOGIN}:{password}@{LOOPBACK}:{server.port}/{name}?search_path=auth&sslmode=disable"


@pytest.fixture(scope="session")
def gotrue_url(postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a project of its own answers, as SUPABASE_URL has it."""
    binary = os.environ.get("GOTRUE_BINARY")
    if not binary:
        pytest.skip("no real sign-in server: set GOTRUE_BINARY to a build of supabase/auth (v2.196 was compared)")
    key = ec.generate_private_key(ec.SECP256R1())
    private = {**json.loads(ECAlgorithm.to_jwk(key)), "kid": str(uuid.uuid4()), "alg": "ES256", "use": "sig"}
    port = free_port()
    root = f"http://{LOOPBACK}:{port}"
    with gateway_to(root) as url:
        server = Process(
            "gotrue",
            [binary],  # without a command it migrates, then serves
            log=tmp_path_factory.mktemp("gotrue") / "gotrue.log",
            env={
                "GOTRUE_DB_DRIVER": "postgres",
                "DATABASE_URL": database_for(postgres_server),
                "DB_NAMESPACE": "auth",
                "API_EXTERNAL_URL": f"{url}{PREFIX}",
                "GOTRUE_SITE_URL": "http://localhost:3000",
                "GOTRUE_API_HOST": LOOPBACK,
                "PORT": str(port),
                "GOTRUE_JWT_SECRET": secrets.token_urlsafe(32),
                "GOTRUE_JWT_AUD": "authenticated",
                "GOTRUE_JWT_DEFAULT_GROUP_NAME": "authenticated",
                "GOTRUE_JWT_EXP": "3600",
                "GOTRUE_JWT_ISSUER": f"{url}{PREFIX}",
                "GOTRUE_JWT_KEYS": json.dumps([{**private, "key_ops": ["sign", "verify"]}]),
                "GOTRUE_MAILER_AUTOCONFIRM": "true",
                "GOTRUE_EXTERNAL_EMAIL_ENABLED": "true",
                "GOTRUE_DISABLE_SIGNUP": "false",
            },
        )

        def answers() -> bool:
            try:
                return httpx.get(f"{root}/health").is_success
            except httpx.HTTPError:
                return False

        server.start(answers, within_seconds=60)
        yield url
        server.stop()


@pytest.fixture
def gotrue(gotrue_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The functions trust its issuer, and know nothing of its keys yet."""
    auth.forget()
    monkeypatch.setenv("SUPABASE_URL", gotrue_url)
    yield gotrue_url
    auth.forget()
