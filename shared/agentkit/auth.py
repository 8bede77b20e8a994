"""Who is calling: a Supabase access token in, a `Caller` out.

Supabase signs user tokens with the keys it publishes at `{SUPABASE_URL}/auth/v1/.well-known/jwks.json`
(https://supabase.com/docs/guides/auth/jwts). We check the signature here, without asking Supabase about
each request, so a signed-out user's token lives until it expires (1 h by default); `FreshCaller` and `Admin`
also ask Supabase whether the session still exists.

The algorithm belongs to the key and is never taken from the token: a token that names another is refused.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any
from uuid import UUID

import httpx
import jwt
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from agentkit import telemetry
from agentkit.errors import Forbidden, Unauthorized, Unavailable
from agentkit.settings import HttpSettings, SupabaseSettings, load

# Ours to choose, never the token's: naming them rules out `none` and HMAC under a public key.
KEY_ALGORITHMS: dict[tuple[object, object], str] = {
    ("EC", "P-256"): "ES256",
    ("RSA", None): "RS256",
    ("OKP", "Ed25519"): "EdDSA",
}
AUDIENCE = "authenticated"
ROLE = "authenticated"
CLOCK_SKEW_SECONDS = 10
KEYS_KEPT_SECONDS = 600
UNKNOWN_KEY_REFETCH_SECONDS = 30
FETCH_TIMEOUT_SECONDS = 3.0
JWKS_BYTES = 256_000
# Supabase's tokens are 1-2 kB; a function URL takes headers of 10 kB in all.
TOKEN_CHARACTERS = 8_192
SESSION_KEPT_SECONDS = 30
SESSIONS_KEPT = 1_000
# The last second that has a date; a larger `exp` is not a time.
LAST_SECOND = 253_402_300_799
# What Supabase answers about a session that has ended; anything else says nothing about the session.
SESSION_ENDED = (401, 403, 404)

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """The person behind a request."""

    id: UUID
    """`auth.users.id`, and what row-level security sees as `auth.uid()`."""
    claims: Mapping[str, Any]
    """Every verified claim, handed to Postgres as `request.jwt.claims`."""
    token: SecretStr = field(default=SecretStr(""), repr=False, compare=False)
    """The access token itself, for asking Supabase on the person's behalf."""

    @property
    def is_admin(self) -> bool:
        """Whether `app_metadata` says so; `user_metadata` is the user's own to write and never asked."""
        metadata = self.claims.get("app_metadata")
        return isinstance(metadata, Mapping) and metadata.get("role") == "admin"


@dataclass
class KeyRing:
    """Supabase's public keys, fetched when needed and kept for ten minutes; failures are never kept."""

    url: str
    keys: dict[str, jwt.PyJWK] = field(default_factory=dict)
    fetched_at: float = float("-inf")
    fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """Return that key, or None when Supabase does not publish it.

        Raises Unavailable when the keys cannot be fetched: a stranger is never let in because Supabase was away.
        """
        # By the wall clock: the monotonic one may stand still while a sandbox is frozen.
        age = time.time() - self.fetched_at
        kept_seconds = KEYS_KEPT_SECONDS if key_id in self.keys else UNKNOWN_KEY_REFETCH_SECONDS
        if not 0 <= age <= kept_seconds:
            if self.fetching is None:
                self.fetching = asyncio.create_task(self._fetch())
            # All who need a fetch share one and its outcome; who leaves early does not end it for the others.
            await asyncio.shield(self.fetching)
        return self.keys.get(key_id)

    async def _fetch(self) -> None:
        try:
            self.keys = await _fetch_keys(self.url)
            self.fetched_at = time.time()
        finally:
            self.fetching = None


_rings: dict[tuple[str, asyncio.AbstractEventLoop], KeyRing] = {}
_sessions: dict[str, float] = {}


def forget() -> None:
    """Drop every fetched key and checked session, as after a cold start."""
    _rings.clear()
    _sessions.clear()


async def verify(token: str) -> Caller:
    """Return the person whom the token names, once its signature, issuer, audience and time are found sound.

    Raises Unauthorized with `token_expired` or `token_invalid`, Unavailable when the keys cannot be had.
    """
    settings = load(SupabaseSettings)
    key, algorithm = await _key_for(token, settings)
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=AUDIENCE,
            issuer=f"{settings.supabase_url.rstrip('/')}/auth/v1",
            leeway=CLOCK_SKEW_SECONDS,
            options={"require": ["iss", "aud", "exp", "sub"], "strict_aud": True},
        )
        person = UUID(claims["sub"])
        # Both are read more generously than written: `exp` from a string, a UUID from braces or other digits.
        if str(person) != claims["sub"].lower() or not _is_time(claims["exp"]):
            raise jwt.InvalidTokenError("sub or exp is not what it should be")
    except jwt.ExpiredSignatureError as error:
        raise _refusal("token_expired", "The sign-in has expired; refresh it.") from error
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _refusal("token_invalid", "The access token is not valid here.") from error
    if claims.get("role") != ROLE:
        raise _refusal("token_invalid", "The access token is not a signed-in user's.")
    return Caller(person, claims, SecretStr(token))


async def session_exists(caller: Caller) -> bool:
    """Ask Supabase whether the session behind the token still exists; a yes is kept for 30 s.

    Raises Unavailable when Supabase does not answer.
    """
    session = f"{caller.id}:{caller.claims.get('session_id')}"
    if 0 <= time.time() - _sessions.get(session, float("-inf")) <= SESSION_KEPT_SECONDS:
        return True
    settings = load(SupabaseSettings)
    headers = {"Authorization": f"Bearer {caller.token.get_secret_value()}"}
    if settings.supabase_publishable_key:
        headers["apikey"] = settings.supabase_publishable_key.get_secret_value()
    try:
        async with httpx.AsyncClient(timeout=FETCH_TIMEOUT_SECONDS) as client:
            answer = await client.get(f"{settings.supabase_url.rstrip('/')}/auth/v1/user", headers=headers)
    except httpx.HTTPError as error:
        raise _unavailable() from error
    if answer.is_success:
        if len(_sessions) >= SESSIONS_KEPT:
            _sessions.clear()
        _sessions[session] = time.time()
        return True
    if answer.status_code not in SESSION_ENDED:
        raise _unavailable()
    return False


Bearer = Annotated[
    HTTPAuthorizationCredentials | None,
    Depends(HTTPBearer(auto_error=False, bearerFormat="JWT", description="A Supabase access token.")),
]


async def current_caller(credentials: Bearer) -> Caller:
    """Return who is calling; raises Unauthorized, or Unavailable when that cannot be found out."""
    if credentials is None:
        raise _refusal("token_missing", "Send the Supabase access token as `Authorization: Bearer …`.")
    return await verify(credentials.credentials)


CurrentCaller = Annotated[Caller, Depends(current_caller)]
"""Ask for it by type: `async def search(question: Question, caller: CurrentCaller)`."""


async def fresh_caller(caller: CurrentCaller) -> Caller:
    """Return who is calling, once Supabase has said that the session still exists."""
    if not await session_exists(caller):
        raise _refusal("token_invalid", "The session has ended; sign in again.")
    return caller


FreshCaller = Annotated[Caller, Depends(fresh_caller)]
"""For what cannot be undone: a token that outlived its session is refused."""


async def admin(caller: FreshCaller) -> Caller:
    """Return who is calling; raises Forbidden unless an admin."""
    if not caller.is_admin:
        raise Forbidden("Only an admin may do this.")
    return caller


Admin = Annotated[Caller, Depends(admin)]
"""An admin, by `app_metadata.role`, whose session still exists."""


async def netlify_signature(request: Request) -> None:
    """Refuse a request whose `x-nf-sign` is not Netlify's, where NETLIFY_SIGNING_SECRET is set.

    The signature says that the request came through our site's proxy; it is not bound to path or body, so it never
    replaces the access token (https://docs.netlify.com/manage/routing/redirects/rewrites-proxies/#signed-proxy-redirects).
    """
    secret = load(HttpSettings).netlify_signing_secret
    signature = request.headers.get("x-nf-sign")
    if secret is None or signature is None:
        return
    try:
        jwt.decode(
            signature,
            secret.get_secret_value(),
            algorithms=["HS256"],
            issuer="netlify",
            leeway=CLOCK_SKEW_SECONDS,
            options={"require": ["iss", "exp"]},
        )
    except jwt.PyJWTError as error:
        raise Forbidden("The request did not come through the site.", code="signature_invalid") from error


async def _key_for(token: str, settings: SupabaseSettings) -> tuple[Any, str]:
    """Return the key that the token names and the one algorithm that key is for."""
    if len(token) > TOKEN_CHARACTERS:
        raise _refusal("token_invalid", "The access token is too long.")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise _refusal("token_invalid", "The access token is not a JWT.") from error
    key_id = header.get("kid")
    # Legacy projects: their HS256 tokens carry a kid that no JWKS lists, or none.
    if header.get("alg") == "HS256" and settings.supabase_jwt_secret:
        return settings.supabase_jwt_secret.get_secret_value(), "HS256"
    if not isinstance(key_id, str):
        raise _refusal("token_invalid", "The access token does not name its key.")
    key = None
    if settings.supabase_jwks:
        key = _configured_keys(settings.supabase_jwks).get(key_id)
    if key is None:
        address = f"{settings.supabase_url.rstrip('/')}/auth/v1/.well-known/jwks.json"
        ring = _rings.setdefault((address, asyncio.get_running_loop()), KeyRing(address))
        key = await ring.find(key_id)
    if key is None:
        raise _refusal("token_invalid", "The access token is signed with a key that is not in use.")
    return key.key, str(key.algorithm_name)


async def _fetch_keys(url: str) -> dict[str, jwt.PyJWK]:
    try:
        async with (
            asyncio.timeout(FETCH_TIMEOUT_SECONDS),
            httpx.AsyncClient(timeout=FETCH_TIMEOUT_SECONDS) as client,
            client.stream("GET", url) as answer,
        ):
            answer.raise_for_status()
            document = b""
            async for piece in answer.aiter_bytes():
                document += piece
                if len(document) > JWKS_BYTES:
                    raise _unavailable()
        return _keys_in(document)
    except (httpx.HTTPError, TimeoutError, ValueError, RecursionError) as error:
        # No answer, no usable keys, or an error page: theirs to mend, not a reason to sign out.
        log.warning("jwks.unavailable", exc_info=error)
        raise _unavailable() from error


@cache
def _configured_keys(document: str) -> dict[str, jwt.PyJWK]:
    """Return the keys that the deployment carries; none when it carries something else, and then they are fetched."""
    try:
        return _keys_in(document)
    except (ValueError, RecursionError) as error:
        log.error("jwks.setting_unusable", exc_info=error)
        return {}


def _keys_in(document: str | bytes) -> dict[str, jwt.PyJWK]:
    """Return the usable signing keys of a JWKS document by their ids; raises ValueError for anything else.

    A shared secret (`oct`) is never a public key, and a key of a kind we do not know cannot verify anything.
    """
    parsed = json.loads(document)
    if not isinstance(parsed, dict) or not isinstance(parsed.get("keys"), list):
        raise ValueError("not a JWKS document")  # noqa: TRY004  # one error for all that is unusable
    found = {}
    for key in parsed["keys"]:
        if not isinstance(key, dict) or key.get("use", "sig") != "sig" or not isinstance(key.get("kid"), str):
            continue
        try:
            algorithm = KEY_ALGORITHMS.get((key.get("kty"), key.get("crv")))
            if algorithm and key.get("alg", algorithm) == algorithm:
                found[key["kid"]] = jwt.PyJWK(key, algorithm)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            log.warning("jwks.key_unusable", kid=key["kid"], exc_info=error)
    return found


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= LAST_SECOND


def _refusal(code: str, sentence: str) -> Unauthorized:
    error = "" if code == "token_missing" else ' error="invalid_token",'
    return Unauthorized(
        sentence, code=code, headers={"WWW-Authenticate": f'Bearer realm="agentkit",{error} error_description="{code}"'}
    )


def _unavailable() -> Unavailable:
    return Unavailable("Sign-in cannot be checked just now.", code="sign_in_unavailable")
