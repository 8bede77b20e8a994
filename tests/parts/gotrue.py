"""Supabase's own sign-in server (GoTrue), over the real Postgres, where its program is on the machine.

`GOTRUE_BINARY` names the program and `GOTRUE_MIGRATIONS` its migrations' folder.
"""

import json
import os
import secrets
import uuid
from collections.abc import Iterator

import httpx
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from agentkit import auth
from infra.local.part import LOOPBACK, Process, free_port
from infra.local.postgres import Postgres


@pytest.fixture(scope="session")
def gotrue_url(postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where it answers; as Supabase's gateway does, `gotrue` puts /auth/v1 before its paths."""
    binary, migrations = os.environ.get("GOTRUE_BINARY"), os.environ.get("GOTRUE_MIGRATIONS")
    if not (binary and migrations):
        pytest.skip("GOTRUE_BINARY and GOTRUE_MIGRATIONS do not name a GoTrue server")
    database = "gotrue"
    with psycopg.connect(postgres_server.url("postgres", "postgres"), autocommit=True) as connection:
        connection.execute(f"create database {database}")
    with psycopg.connect(postgres_server.url(database, "postgres"), autocommit=True) as connection:
        connection.execute("create schema auth")
    key = ec.generate_private_key(ec.SECP256R1())
    private = {**json.loads(ECAlgorithm.to_jwk(key)), "kid": str(uuid.uuid4()), "alg": "ES256", "use": "sig"}
    port = free_port()
    url = f"http://{LOOPBACK}:{port}"
    server = Process(
        "gotrue",
        [binary],  # without a command it migrates, then serves
        log=tmp_path_factory.mktemp("gotrue") / "gotrue.log",
        env={
            "GOTRUE_DB_DRIVER": "postgres",
            "DATABASE_URL": f"{postgres_server.url(database, 'postgres')}?search_path=auth&sslmode=disable",
            "DB_NAMESPACE": "auth",
            "GOTRUE_DB_MIGRATIONS_PATH": migrations,
            "API_EXTERNAL_URL": f"{url}/auth/v1",
            "GOTRUE_SITE_URL": "http://localhost:3000",
            "GOTRUE_API_HOST": LOOPBACK,
            "PORT": str(port),
            "GOTRUE_JWT_SECRET": secrets.token_urlsafe(32),
            "GOTRUE_JWT_AUD": "authenticated",
            "GOTRUE_JWT_DEFAULT_GROUP_NAME": "authenticated",
            "GOTRUE_JWT_EXP": "3600",
            "GOTRUE_JWT_ISSUER": f"{url}/auth/v1",
            "GOTRUE_JWT_KEYS": json.dumps([{**private, "key_ops": ["sign", "verify"]}]),
            "GOTRUE_MAILER_AUTOCONFIRM": "true",
            "GOTRUE_EXTERNAL_EMAIL_ENABLED": "true",
            "GOTRUE_DISABLE_SIGNUP": "false",
        },
    )

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/health").is_success
        except httpx.HTTPError:
            return False

    server.start(answers, within_seconds=60)
    yield url
    server.stop()


@pytest.fixture
def gotrue(gotrue_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The functions trust its keys and its issuer."""
    auth.forget()
    monkeypatch.setenv("SUPABASE_URL", gotrue_url)
    # GoTrue answers at its root; the path before it is the gateway's.
    monkeypatch.setenv("SUPABASE_JWKS", httpx.get(f"{gotrue_url}/.well-known/jwks.json").text)
    yield gotrue_url
    auth.forget()
