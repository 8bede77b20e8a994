"""Supabase's sign-in, as far as its clients use it: password, refresh, user, sign-out, sign-up, public keys.

    python -m infra.local.signin_server PORT FOLDER

Paths, members, error codes and claims follow supabase/auth (GoTrue); tests/acceptance compares them with the real one.
Tokens are signed by ES256 with a key made at the first start. Accounts are kept in SQLite, passwords as scrypt hashes.
"""

import hashlib
import hmac
import json
import re
import secrets
import sqlite3
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from infra.local.part import LOOPBACK

TOKEN_SECONDS = 3600
LEAST_PASSWORD = 6
REFRESH_TOKEN = re.compile("[a-z0-9]{12}")
SCHEMA = """
create table if not exists users (id text primary key, email text unique, password text, app_metadata text,
  user_metadata text, created_at text, last_sign_in_at text);
create table if not exists sessions (id text primary key, user_id text, created_at real);
create table if not exists refresh_tokens (token text primary key, session_id text, used integer default 0);
"""

Json = dict[str, Any]


class Refused(Exception):  # noqa: N818  # reads as what happened
    """An error in GoTrue's words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class SignIn:
    """The endpoints under /auth/v1."""

    def __init__(self, port: int, folder: Path, people: list[Json], api_key: str) -> None:
        self._issuer = f"http://{LOOPBACK}:{port}/auth/v1"
        self._api_key = api_key
        self._database = sqlite3.connect(folder / "accounts.sqlite", isolation_level=None)
        self._database.row_factory = sqlite3.Row
        self._database.executescript(SCHEMA)
        self._key = _signing_key(folder / "signing_key.pem")
        public = json.loads(ECAlgorithm.to_jwk(self._key.public_key()))
        identity = hashlib.sha256(json.dumps(public, sort_keys=True).encode()).hexdigest()[:32]
        self._jwk = {**public, "kid": identity, "alg": "ES256", "use": "sig", "key_ops": ["verify"]}
        for person in people:
            self._add_user(person["id"], person["email"], person["password"], person["app_metadata"])

    async def token(self, request: Request) -> Response:
        """Sign in by password, or renew by refresh token."""
        body = await _body(request)
        kind = request.query_params.get("grant_type")
        if kind == "password":
            user = self._user(email=str(body.get("email", "")).lower())
            if user is None or not _matches(str(body.get("password", "")), user["password"]):
                raise Refused(400, "invalid_credentials", "Invalid login credentials")
            session = str(uuid.uuid4())
            self._database.execute("insert into sessions values (?, ?, ?)", (session, user["id"], time.time()))
            self._database.execute("update users set last_sign_in_at = ? where id = ?", (_now(), user["id"]))
            return JSONResponse(self._session(user["id"], session))
        if kind == "refresh_token":
            token = str(body.get("refresh_token", ""))
            if REFRESH_TOKEN.fullmatch(token) is None:
                raise Refused(400, "validation_failed", "Refresh token is not valid")
            row = self._database.execute(
                "select r.used, s.id, s.user_id from refresh_tokens r join sessions s on s.id = r.session_id"
                " where r.token = ?",
                (token,),
            ).fetchone()
            if row is None:
                raise Refused(400, "refresh_token_not_found", "Invalid Refresh Token: Refresh Token Not Found")
            if row["used"]:
                # Used twice: someone else may hold it. The session ends.
                self._end("id", row["id"])
                raise Refused(400, "refresh_token_already_used", "Invalid Refresh Token: Already Used")
            self._database.execute("update refresh_tokens set used = 1 where token = ?", (token,))
            return JSONResponse(self._session(row["user_id"], row["id"]))
        raise Refused(400, "invalid_credentials", "unsupported_grant_type")

    async def sign_up(self, request: Request) -> Response:
        """Make an account and sign it in."""
        body = await _body(request)
        email = str(body.get("email", "")).lower()
        if "@" not in email:
            raise Refused(400, "validation_failed", "Unable to validate email address: invalid format")
        password = _password(body)
        if self._user(email=email) is not None:
            raise Refused(422, "user_already_exists", "User already registered")
        identity, session = str(uuid.uuid4()), str(uuid.uuid4())
        self._add_user(identity, email, password, {"provider": "email", "providers": ["email"]})
        self._database.execute("insert into sessions values (?, ?, ?)", (session, identity, time.time()))
        return JSONResponse(self._session(identity, session))

    async def user(self, request: Request) -> Response:
        """Return whose token this is, while its session exists."""
        claims = self._claims(request)
        return JSONResponse(self._account(claims["sub"]))

    async def change_user(self, request: Request) -> Response:
        """Change the person's own password or `user_metadata`, and return the account."""
        claims = self._claims(request)
        body = await _body(request)
        if "password" in body:
            password = _password(body)
            if _matches(password, self._hash_of(claims["sub"])):
                raise Refused(422, "same_password", "New password should be different from the old password.")
            self._database.execute("update users set password = ? where id = ?", (_hashed(password), claims["sub"]))
        if isinstance(body.get("data"), dict):
            metadata = self._account(claims["sub"])["user_metadata"] | body["data"]
            self._database.execute(
                "update users set user_metadata = ? where id = ?", (json.dumps(metadata), claims["sub"])
            )
        return JSONResponse(self._account(claims["sub"]))

    async def log_out(self, request: Request) -> Response:
        """End this session, or all of the person's, or all others."""
        claims = self._claims(request)
        scope = request.query_params.get("scope", "global")
        if scope == "local":
            self._end("id", claims["session_id"])
        elif scope == "others":
            rows = self._database.execute(
                "select id from sessions where user_id = ? and id <> ?", (claims["sub"], claims["session_id"])
            ).fetchall()
            for row in rows:
                self._end("id", row["id"])
        else:
            self._end("user_id", claims["sub"])
        return Response(status_code=204)

    async def keys(self, _: Request) -> Response:
        """Return the public keys."""
        return JSONResponse({"keys": [self._jwk]}, headers={"Cache-Control": "public, max-age=600"})

    async def settings(self, _: Request) -> Response:
        """Say which ways of signing in there are."""
        return JSONResponse({"external": {"email": True}, "disable_signup": False, "mailer_autoconfirm": True})

    async def health(self, _: Request) -> Response:
        """Say who this is."""
        return JSONResponse({"name": "GoTrue", "description": "the local stack's stand-in", "version": "local"})

    def allowed(self, request: Request) -> bool:
        """Say whether the request carries the project's key, as Supabase's gateway asks; public keys need none."""
        open_to_all = request.url.path.endswith(("/.well-known/jwks.json", "/health"))
        return open_to_all or request.method == "OPTIONS" or request.headers.get("apikey") == self._api_key

    def _session(self, user_id: str, session: str) -> Json:
        account = self._account(user_id)
        refresh, now = secrets.token_hex(6), int(time.time())
        self._database.execute("insert into refresh_tokens (token, session_id) values (?, ?)", (refresh, session))
        claims = {
            "iss": self._issuer,
            "sub": user_id,
            "aud": "authenticated",
            "exp": now + TOKEN_SECONDS,
            "iat": now,
            "email": account["email"],
            "phone": "",
            "app_metadata": account["app_metadata"],
            "user_metadata": account["user_metadata"],
            "role": "authenticated",
            "aal": "aal1",
            "amr": [{"method": "password", "timestamp": now}],
            "session_id": session,
            "is_anonymous": False,
        }
        token = jwt.encode(claims, self._key, "ES256", headers={"kid": self._jwk["kid"]})
        return {
            "access_token": token,
            "token_type": "bearer",
            "expires_in": TOKEN_SECONDS,
            "expires_at": now + TOKEN_SECONDS,
            "refresh_token": refresh,
            "user": account,
        }

    def _claims(self, request: Request) -> Json:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Refused(401, "no_authorization", "This endpoint requires a valid Bearer token")
        try:
            claims: Json = jwt.decode(
                token, self._key.public_key(), ["ES256"], audience="authenticated", issuer=self._issuer
            )
        except jwt.PyJWTError as error:
            raise Refused(403, "bad_jwt", f"invalid JWT: unable to parse or verify signature, {error}") from error
        if self._database.execute("select 1 from sessions where id = ?", (claims["session_id"],)).fetchone() is None:
            raise Refused(403, "session_not_found", "Session from session_id claim in JWT does not exist")
        return claims

    def _end(self, column: str, value: str) -> None:
        self._database.execute(
            f"delete from refresh_tokens where session_id in (select id from sessions where {column} = ?)", (value,)
        )
        self._database.execute(f"delete from sessions where {column} = ?", (value,))

    def _user(self, *, email: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._database.execute("select * from users where email = ?", (email,)).fetchone()
        return row

    def _hash_of(self, user_id: str) -> str:
        row = self._database.execute("select password from users where id = ?", (user_id,)).fetchone()
        return str(row["password"])

    def _add_user(self, identity: str, email: str, password: str, app_metadata: Json) -> None:
        self._database.execute(
            "insert or ignore into users values (?, ?, ?, ?, '{}', ?, null)",
            (identity, email, _hashed(password), json.dumps(app_metadata), _now()),
        )

    def _account(self, user_id: str) -> Json:
        row = self._database.execute("select * from users where id = ?", (user_id,)).fetchone()
        return {
            "id": row["id"],
            "aud": "authenticated",
            "role": "authenticated",
            "email": row["email"],
            "email_confirmed_at": row["created_at"],
            "phone": "",
            "confirmed_at": row["created_at"],
            "last_sign_in_at": row["last_sign_in_at"] or row["created_at"],
            "app_metadata": json.loads(row["app_metadata"]),
            "user_metadata": json.loads(row["user_metadata"]),
            "identities": [],
            "created_at": row["created_at"],
            "updated_at": row["created_at"],
            "is_anonymous": False,
        }


async def _body(request: Request) -> Json:
    try:
        body = await request.json()
        # Half a surrogate pair can be written in JSON and stored nowhere.
        json.dumps(body, ensure_ascii=False).encode()
    except ValueError as error:
        raise Refused(400, "bad_json", "Could not parse request body as JSON") from error
    return body if isinstance(body, dict) else {}


def _password(body: Json) -> str:
    password = str(body.get("password", ""))
    if len(password) < LEAST_PASSWORD:
        raise Refused(422, "weak_password", f"Password should be at least {LEAST_PASSWORD} characters.")
    return password


def _signing_key(file: Path) -> ec.EllipticCurvePrivateKey:
    if not file.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        file.touch(mode=0o600)
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    found = serialization.load_pem_private_key(file.read_bytes(), password=None)
    assert isinstance(found, ec.EllipticCurvePrivateKey)  # noqa: S101  # the file is written just above
    return found


def _hashed(password: str) -> str:
    salt = secrets.token_bytes(16)
    return f"{salt.hex()}:{_scrypt(password, salt).hex()}"


def _matches(password: str, hashed: str) -> bool:
    salt, _, digest = hashed.partition(":")
    return hmac.compare_digest(_scrypt(password, bytes.fromhex(salt)), bytes.fromhex(digest))


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def create_app(port: int, folder: Path) -> Starlette:
    """Return the server's app; people and key are those that `infra.local.signin` has left in the folder."""
    configured = json.loads((folder / "configuration.json").read_text())
    service = SignIn(port, folder, configured["people"], configured["api_key"])

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)  # noqa: S101  # Starlette calls a handler only for its own class
        body = {"code": error.status, "error_code": error.code, "msg": error.message}
        return JSONResponse(body, error.status, headers={"X-Sb-Error-Code": error.code})

    def guarded(endpoint: Any) -> Any:  # noqa: ANN401  # an endpoint and the same one behind the key
        async def call(request: Request) -> Response:
            if not service.allowed(request):
                return JSONResponse({"message": "No API key found in request"}, 401)
            response: Response = await endpoint(request)
            return response

        return call

    routes = [
        Route("/token", guarded(service.token), methods=["POST"]),
        Route("/signup", guarded(service.sign_up), methods=["POST"]),
        Route("/user", guarded(service.user), methods=["GET"]),
        Route("/user", guarded(service.change_user), methods=["PUT"]),
        Route("/logout", guarded(service.log_out), methods=["POST"]),
        Route("/.well-known/jwks.json", guarded(service.keys)),
        Route("/settings", guarded(service.settings)),
        Route("/health", guarded(service.health)),
    ]
    cors = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    return Starlette(
        routes=[Mount("/auth/v1", routes=routes)], middleware=[cors], exception_handlers={Refused: refused}
    )


if __name__ == "__main__":
    uvicorn.run(
        create_app(int(sys.argv[1]), Path(sys.argv[2])), host=LOOPBACK, port=int(sys.argv[1]), log_level="warning"
    )
