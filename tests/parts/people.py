"""Ada, Bob and an admin, and tokens in their names: signed as Supabase signs, by a key made for this run."""

import json
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from agentkit.auth import Caller

ISSUER = "https://project.supabase.test"


@dataclass(frozen=True)
class Person:
    """Someone with an account."""

    id: UUID
    email: str
    app_metadata: dict[str, Any]


ADA = Person(UUID("00000000-0000-4000-8000-00000000000a"), "ada@example.com", {"provider": "email"})
BOB = Person(UUID("00000000-0000-4000-8000-00000000000b"), "bob@example.com", {"provider": "email"})
ADMIN = Person(
    UUID("00000000-0000-4000-8000-00000000000d"), "admin@example.com", {"provider": "email", "role": "admin"}
)

KEY_ID = "the-tests-own-key"
KEY = ec.generate_private_key(ec.SECP256R1())


def jwks(key_id: str = KEY_ID, key: ec.EllipticCurvePrivateKey = KEY) -> str:
    """The public half, as Supabase publishes it."""
    public = json.loads(ECAlgorithm.to_jwk(key.public_key()))
    return json.dumps({"keys": [{**public, "kid": key_id, "alg": "ES256", "use": "sig", "key_ops": ["verify"]}]})


def claims(person: Person, **changes: Any) -> dict[str, Any]:
    """What Supabase says of a signed-in person; a change to None takes the claim away."""
    now = int(time.time())
    said = {
        "iss": f"{ISSUER}/auth/v1",
        "aud": "authenticated",
        "sub": str(person.id),
        "iat": now,
        "exp": now + 3600,
        "role": "authenticated",
        "email": person.email,
        "phone": "",
        "aal": "aal1",
        "amr": [{"method": "password", "timestamp": now}],
        "session_id": "5a30b3f6-0c9b-4f9e-9a5e-3f1d3c8e2b11",
        "is_anonymous": False,
        "app_metadata": person.app_metadata,
        "user_metadata": {},
        **changes,
    }
    return {name: value for name, value in said.items() if value is not None}


def token(person: Person, **changes: Any) -> str:
    """An access token of that person's."""
    return jwt.encode(claims(person, **changes), KEY, "ES256", headers={"kid": KEY_ID})


def caller(person: Person) -> Caller:
    """That person, as the functions know them once their token is verified."""
    return Caller(person.id, claims(person))


def bearer(person: Person) -> dict[str, str]:
    """The header that a browser sends for that person."""
    return {"Authorization": f"Bearer {token(person)}"}


@pytest.fixture
def people(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions know this run's key, without a request for it."""
    monkeypatch.setenv("SUPABASE_URL", ISSUER)
    monkeypatch.setenv("SUPABASE_JWKS", jwks())
