"""Who may come in: sound tokens of each algorithm, and nobody else; a Supabase that is away signs nobody in or out."""

import asyncio
import base64
import contextlib
import json
import threading
import time
import uuid
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi.testclient import TestClient
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from pydantic import SecretStr

from agentkit import auth
from agentkit.auth import Admin, CurrentCaller, FreshCaller
from agentkit.http import create_app
from tests.parts.beside import beside
from tests.parts.people import ADA, ADMIN, claims

EC_KEY = ec.generate_private_key(ec.SECP256R1())
NEXT_KEY = ec.generate_private_key(ec.SECP256R1())
STRANGERS_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()
SHARED_SECRET = "a legacy secret of more than thirty-two bytes"
PUBLISHED_SECRET = b"a symmetric key that someone has published by mistake"


def public(key, kid) -> dict[str, Any]:
    algorithm: Any
    algorithm, name = {
        ec.EllipticCurvePrivateKey: (ECAlgorithm, "ES256"),
        rsa.RSAPrivateKey: (RSAAlgorithm, "RS256"),
        ed25519.Ed25519PrivateKey: (OKPAlgorithm, "EdDSA"),
    }[
        next(
            kind
            for kind in (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey)
            if isinstance(key, kind)
        )
    ]
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "alg": name, "use": "sig"}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


OCT = {"kty": "oct", "kid": "oct", "alg": "HS256", "use": "sig", "k": b64(PUBLISHED_SECRET)}
KEYS = json.dumps({"keys": [public(EC_KEY, "ec"), public(RSA_KEY, "rsa"), public(ED_KEY, "ed"), OCT]}).encode()


class Supabase(ThreadingHTTPServer):
    """Publishes keys and knows sessions, as told, and counts how often it is asked."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Asked)
        self.status, self.document, self.session_status = 200, KEYS, 200
        self.fetches = self.checks = 0
        self.asked = threading.Event()
        self.open = threading.Event()
        self.open.set()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Asked(BaseHTTPRequestHandler):
    server: Supabase

    def do_GET(self):
        if self.path == "/auth/v1/user":
            self.server.checks += 1
            status, body = self.server.session_status, b"{}"
        else:
            assert self.path == "/auth/v1/.well-known/jwks.json"
            self.server.fetches += 1
            self.server.asked.set()
            self.server.open.wait()
            status, body = self.server.status, self.server.document
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the reader may have had enough of it
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def supabase(monkeypatch):
    auth.forget()
    server = Supabase()
    with beside(server):
        monkeypatch.setenv("SUPABASE_URL", server.url)
        yield server
        server.open.set()
    auth.forget()


@pytest.fixture
def application(monkeypatch):
    app = create_app("doors")

    @app.get("/doors/anyone")
    async def anyone(caller: CurrentCaller) -> dict[str, str]:
        return {"id": str(caller.id)}

    @app.get("/doors/fresh")
    async def fresh(caller: FreshCaller) -> dict[str, str]:
        return {"id": str(caller.id)}

    @app.get("/doors/admin")
    async def admin(caller: Admin) -> dict[str, str]:
        return {"id": str(caller.id)}

    return app


@pytest.fixture
def knock(supabase, application):
    """Knock with an Authorization header; what was not handled is an answer of 500, as in production."""
    with TestClient(application, raise_server_exceptions=False) as client:

        def knock(header, door="anyone", **headers):
            sent = {} if header is None else {"Authorization": header}
            return client.get(f"/v1/doors/{door}", headers=sent | headers)

        yield knock


def said(supabase, **changes):
    """What Ada's token says; `iss` is this Supabase unless changed."""
    return claims(ADA, **{"iss": f"{supabase.url}/auth/v1", **changes})


def signed(supabase, *, key=EC_KEY, algorithm="ES256", kid: str | None = "ec", headers=None, **changes):
    named = {} if kid is None else {"kid": kid}
    return jwt.encode(said(supabase, **changes), key, algorithm, headers={**named, **(headers or {})})


def by_hand(header, payload, signature=b"", key=None):
    """A token that no library would write."""
    head = b64(json.dumps(header).encode()) if isinstance(header, dict) else header
    body = b64(json.dumps(payload).encode()) if not isinstance(payload, bytes) else b64(payload)
    if key is not None:
        signature = ECAlgorithm(ECAlgorithm.SHA256).sign(f"{head}.{body}".encode(), key)
    return f"{head}.{body}.{b64(signature)}"


def public_pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def hmac_under(secret, supabase, kid):
    """Signed with HS256 under any bytes; PyJWT itself refuses to do that with a public key."""
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    head, body = b64(json.dumps({"alg": "HS256", "kid": kid}).encode()), b64(json.dumps(said(supabase)).encode())
    return f"{head}.{body}.{b64(algorithm.sign(f'{head}.{body}'.encode(), secret))}"


ES = {"alg": "ES256", "kid": "ec"}
NESTED = b64(b"[" * 4_000)
UNSOUND = {
    "algorithm none": lambda s: by_hand({"alg": "none"}, said(s)),
    "algorithm none under a known key": lambda s: by_hand({"alg": "none", "kid": "ec"}, said(s)),
    "no algorithm": lambda s: by_hand({"kid": "ec"}, said(s), key=EC_KEY),
    "algorithm is a list": lambda s: by_hand({"alg": ["ES256"], "kid": "ec"}, said(s), key=EC_KEY),
    "HMAC with the public key": lambda s: hmac_under(public_pem(EC_KEY), s, "ec"),
    "HMAC with the RSA public key": lambda s: hmac_under(public_pem(RSA_KEY), s, "rsa"),
    "HMAC with a published symmetric key": lambda s: hmac_under(PUBLISHED_SECRET, s, "oct"),
    "HMAC where no secret is set": lambda s: hmac_under(SHARED_SECRET.encode(), s, "ec"),
    "HMAC with an empty secret": lambda s: hmac_under(b"", s, "ec"),
    "another's key under our key id": lambda s: signed(s, key=STRANGERS_KEY),
    "RS256 under the key id of an EC key": lambda s: signed(s, key=RSA_KEY, algorithm="RS256"),
    "ES256 under the key id of an RSA key": lambda s: signed(s, kid="rsa"),
    "RS512 under an RS256 key": lambda s: signed(s, key=RSA_KEY, algorithm="RS512", kid="rsa"),
    "other issuer": lambda s: signed(s, iss="https://evil.test/auth/v1"),
    "issuer without its path": lambda s: signed(s, iss=s.url),
    "issuer with more behind it": lambda s: signed(s, iss=f"{s.url}/auth/v1/"),
    "issuer is a list": lambda s: by_hand(ES, said(s, iss=[f"{s.url}/auth/v1"]), key=EC_KEY),
    "no issuer": lambda s: signed(s, iss=None),
    "audience is a list": lambda s: signed(s, aud=["authenticated", "other"]),
    "audience anon": lambda s: signed(s, aud="anon"),
    "no audience": lambda s: signed(s, aud=None),
    "no sub": lambda s: signed(s, sub=None),
    "sub is empty": lambda s: signed(s, sub=""),
    "sub is not a uuid": lambda s: signed(s, sub="ada"),
    "sub is a number": lambda s: by_hand(ES, said(s, sub=7), key=EC_KEY),
    "sub is a uuid in braces": lambda s: signed(s, sub="{%s}" % ADA.id),  # noqa: UP031  # braces in an f-string hide
    "sub is a urn": lambda s: signed(s, sub=f"urn:uuid:{ADA.id}"),
    "sub in other scripts' digits": lambda s: signed(s, sub=str(ADA.id).replace("0", "٠")),
    "sub carries SQL": lambda s: signed(s, sub=f"{ADA.id}' or true --"),
    "expired by 11 s": lambda s: signed(s, exp=int(time.time()) - 11),
    "expired in 1970": lambda s: signed(s, exp=0),
    "no expiry": lambda s: signed(s, exp=None),
    "expiry is a text": lambda s: by_hand(ES, said(s, exp=str(int(time.time()) + 3600)), key=EC_KEY),
    "expiry is true": lambda s: by_hand(ES, said(s, exp=True), key=EC_KEY),
    "expiry is a list": lambda s: by_hand(ES, said(s, exp=[int(time.time()) + 3600]), key=EC_KEY),
    "expiry beyond every calendar": lambda s: signed(s, exp=10**30),
    "expiry is infinite": lambda s: by_hand(ES, said(s, exp=float("inf")), key=EC_KEY),
    "expiry is not a number": lambda s: by_hand(ES, said(s, exp=float("nan")), key=EC_KEY),
    "not yet valid": lambda s: signed(s, nbf=int(time.time()) + 60),
    "issued in the future": lambda s: signed(s, iat=int(time.time()) + 60),
    "unknown key id": lambda s: signed(s, kid="unheard-of"),
    "key id is a path": lambda s: signed(s, kid="../../../../dev/null"),
    "key id is an address": lambda s: signed(s, kid="http://169.254.169.254/latest/meta-data"),
    "key id carries SQL": lambda s: signed(s, kid="ec' union select 'secret"),
    "key id is empty": lambda s: signed(s, kid=""),
    "key id is a number": lambda s: by_hand({"alg": "ES256", "kid": 7}, said(s), key=EC_KEY),
    "key id is an object": lambda s: by_hand({"alg": "ES256", "kid": {"ec": 1}}, said(s), key=EC_KEY),
    "no key id where there are several keys": lambda s: signed(s, kid=None),
    "critical extension that we do not know": lambda s: by_hand(
        {**ES, "crit": ["exploit"], "exploit": 1}, said(s), key=EC_KEY
    ),
    "keys offered at another address (jku)": lambda s: signed(
        s, key=STRANGERS_KEY, kid="theirs", headers={"jku": "http://127.0.0.1:9/jwks.json"}
    ),
    "keys offered at another address (x5u)": lambda s: signed(
        s, key=STRANGERS_KEY, kid="theirs", headers={"x5u": "http://127.0.0.1:9/certificate.pem"}
    ),
    "key offered in the token (jwk)": lambda s: signed(
        s, key=STRANGERS_KEY, headers={"jwk": public(STRANGERS_KEY, "ec")}
    ),
    "payload is a list": lambda s: by_hand(ES, [said(s)], key=EC_KEY),
    "payload is a text": lambda _: by_hand(ES, "Ada", key=EC_KEY),
    "payload is not JSON": lambda _: by_hand(ES, b"\xff\xfe", key=EC_KEY),
    "payload is nested too deep": lambda _: by_hand(ES, b"[" * 2_000, key=EC_KEY),
    "payload changed after signing": lambda s: ".".join(
        [signed(s).split(".")[0], b64(json.dumps(said(s, role="service_role")).encode()), signed(s).split(".")[2]]
    ),
    "signature cut off": lambda s: signed(s).rsplit(".", 1)[0] + ".",
    "signature of zeros": lambda s: by_hand(ES, said(s), signature=bytes(64)),
    "header is nested too deep": lambda s: by_hand(NESTED, said(s), key=EC_KEY),
    "header is a list": lambda s: by_hand(b64(b"[]"), said(s), key=EC_KEY),
    "bad base64": lambda _: "ä!.ö!.ü!".encode().decode("latin-1"),
    "digits of another script": lambda s: signed(s) + "٠",
    "expiry in another script's digits": lambda s: by_hand(ES, said(s, exp="٩٩٩٩٩٩٩٩٩٩"), key=EC_KEY),
    "one part": lambda _: "token",
    "four parts": lambda s: signed(s) + ".more",
    "five parts, as if encrypted": lambda _: "a.b.c.d.e",
    "a refresh token": lambda _: "v7kq3mzrb2xd",
    "1 MB": lambda _: "a" * 1_000_000,
    "1 MB, soundly signed": lambda s: signed(s, padding="a" * 1_000_000),
    "role anon": lambda s: signed(s, role="anon"),
    "role service_role": lambda s: signed(s, role="service_role"),
    "role is a list": lambda s: signed(s, role=["authenticated"]),
    "no role": lambda s: signed(s, role=None),
    "'Bearer' twice": lambda s: f"Bearer {signed(s)}",
}
EXPIRED = {"expired by 11 s", "expired in 1970", "expiry is true"}


@pytest.mark.parametrize("unsound", UNSOUND)
def test_an_unsound_token_is_a_401_problem(knock, supabase, unsound):
    answer = knock(f"Bearer {UNSOUND[unsound](supabase)}".encode())
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    code = "token_expired" if unsound in EXPIRED else "token_invalid"
    assert answer.json()["code"] == code
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YWRhOmFkYQ==", "Token abc"])
def test_without_a_bearer_token_it_is_said_to_be_missing(knock, header):
    answer = knock(header)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert "error=" not in answer.headers["www-authenticate"]  # RFC 6750, section 3.1


@pytest.mark.parametrize(
    ("status", "document"),
    [
        pytest.param(500, KEYS, id="an error"),
        pytest.param(404, b"{}", id="not found"),
        pytest.param(302, b"", id="elsewhere"),
        pytest.param(200, b"<html>Maintenance</html>", id="an HTML page"),
        pytest.param(200, b"", id="nothing"),
        pytest.param(200, b"\xff\xfe\x00", id="bytes"),
        pytest.param(200, b"[]", id="a list"),
        pytest.param(200, b'{"keys": {}}', id="keys that are no list"),
        pytest.param(200, b"[" * 200_000, id="nested too deep"),
        pytest.param(200, KEYS + b" " * 300_000, id="too large"),
    ],
)
def test_keys_that_cannot_be_had_are_a_503_and_are_asked_for_again(knock, supabase, status, document):
    supabase.status, supabase.document = status, document
    answer = knock(f"Bearer {signed(supabase)}")
    assert (answer.status_code, answer.json()["code"]) == (503, "sign_in_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    supabase.status, supabase.document = 200, KEYS
    assert knock(f"Bearer {signed(supabase)}").status_code == 200


def test_supabase_out_of_reach_is_a_503(knock, supabase, monkeypatch):
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:9")
    answer = knock(f"Bearer {signed(supabase, iss='http://127.0.0.1:9/auth/v1')}")
    assert (answer.status_code, answer.json()["code"]) == (503, "sign_in_unavailable")


def test_supabase_that_never_answers_is_a_503_in_time(knock, supabase, monkeypatch):
    monkeypatch.setattr(auth, "FETCH_TIMEOUT_SECONDS", 0.2)
    supabase.open.clear()
    assert knock(f"Bearer {signed(supabase)}").status_code == 503


@pytest.mark.parametrize(
    "rogue",
    [7, None, [], {}, {"kid": "x"}, {"kty": [], "kid": "x"}, {"kty": "EC", "crv": "P-256", "kid": "x", "x": "!"}],
    ids=str,
)
def test_one_unusable_key_does_not_take_the_others_with_it(knock, supabase, rogue):
    supabase.document = json.dumps({"keys": [rogue, public(EC_KEY, "ec")]}).encode()
    assert knock(f"Bearer {signed(supabase)}").status_code == 200
    assert knock(f"Bearer {signed(supabase, kid='x')}").status_code == 401


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(EC_KEY, "ES256", "ec"), (RSA_KEY, "RS256", "rsa"), (ED_KEY, "EdDSA", "ed")]
)
def test_a_sound_token_names_its_person(knock, supabase, key, algorithm, kid):
    answer = knock(f"Bearer {signed(supabase, key=key, algorithm=algorithm, kid=kid)}")
    assert answer.json() == {"id": str(ADA.id)}


def test_a_shared_secret_counts_only_where_it_is_set(knock, supabase, monkeypatch):
    monkeypatch.setenv("SUPABASE_JWT_SECRET", SHARED_SECRET)
    assert knock(f"Bearer {hmac_under(SHARED_SECRET.encode(), supabase, 'legacy')}").status_code == 200
    assert knock(f"Bearer {hmac_under(public_pem(EC_KEY), supabase, 'ec')}").status_code == 401
    assert knock(f"Bearer {signed(supabase)}").status_code == 200  # a project that is changing over


def test_a_clock_that_is_behind_by_9_s_is_forgiven(knock, supabase, monkeypatch):
    now = int(time.time())

    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(now, tz)

    monkeypatch.setattr("jwt.api_jwt.datetime", Frozen)
    assert knock(f"Bearer {signed(supabase, exp=now - 9, iat=now - 60)}").status_code == 200
    assert knock(f"Bearer {signed(supabase, nbf=now + 9, iat=now + 9)}").status_code == 200


def test_keys_are_fetched_once(knock, supabase):
    for _ in range(3):
        assert knock(f"Bearer {signed(supabase)}").status_code == 200
    assert supabase.fetches == 1


@pytest.mark.parametrize("unsound", ["no key id where there are several keys", "1 MB, soundly signed", "one part"])
def test_a_token_that_names_no_key_costs_supabase_nothing(knock, supabase, unsound):
    assert knock(f"Bearer {UNSOUND[unsound](supabase)}").status_code == 401
    assert supabase.fetches == 0


def test_keys_that_the_deployment_carries_need_no_network(knock, supabase, monkeypatch):
    monkeypatch.setenv("SUPABASE_JWKS", KEYS.decode())
    assert knock(f"Bearer {signed(supabase)}").status_code == 200
    assert supabase.fetches == 0


def test_carried_keys_that_are_garbage_are_replaced_by_published_ones(knock, supabase, monkeypatch):
    monkeypatch.setenv("SUPABASE_JWKS", "[not json")
    assert knock(f"Bearer {signed(supabase)}").status_code == 200


class Clock:
    """A clock that moves when told."""

    def __init__(self):
        self.now = 1_000.0

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(auth, "time", clock)
    return clock


def rotate(supabase):
    supabase.document = json.dumps({"keys": [public(NEXT_KEY, "next")]}).encode()


def test_a_new_key_is_found_by_one_fetch_when_30_s_have_passed(knock, supabase, clock):
    assert knock(f"Bearer {signed(supabase)}").status_code == 200
    rotate(supabase)
    after = f"Bearer {signed(supabase, key=NEXT_KEY, kid='next')}"
    clock.now += 29
    assert (knock(after).status_code, supabase.fetches) == (401, 1)
    clock.now += 2
    assert (knock(after).status_code, supabase.fetches) == (200, 2)
    assert (knock(after).status_code, supabase.fetches) == (200, 2)
    # The old key is withdrawn with the same fetch.
    assert knock(f"Bearer {signed(supabase)}").status_code == 401


def test_a_withdrawn_key_is_believed_for_ten_minutes_at_most(knock, supabase, clock):
    assert knock(f"Bearer {signed(supabase)}").status_code == 200
    rotate(supabase)
    clock.now += 599
    assert knock(f"Bearer {signed(supabase)}").status_code == 200
    clock.now += 2
    assert knock(f"Bearer {signed(supabase)}").status_code == 401


async def together(application, headers):
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await asyncio.gather(
            *(client.get("/v1/doors/anyone", headers={"Authorization": header}) for header in headers)
        )


@pytest.mark.anyio
@pytest.mark.parametrize(("status", "expected"), [(200, 401), (500, 503)], ids=["up", "down"])
async def test_fifty_unknown_keys_at_once_make_one_fetch(application, supabase, status, expected):
    supabase.status = status
    tokens = [f"Bearer {signed(supabase, kid=str(uuid.uuid4()))}" for _ in range(50)]
    answers = await together(application, tokens)
    assert {answer.status_code for answer in answers} == {expected}
    assert supabase.fetches == 1


@pytest.mark.anyio
async def test_a_known_key_does_not_wait_for_a_fetch_that_a_stranger_caused(application, supabase, clock):
    (first,) = await together(application, [f"Bearer {signed(supabase)}"])
    assert first.status_code == 200
    clock.now += 31
    supabase.open.clear()
    supabase.asked.clear()
    stranger = asyncio.create_task(together(application, [f"Bearer {signed(supabase, kid='unheard-of')}"]))
    await asyncio.to_thread(supabase.asked.wait)
    (known,) = await together(application, [f"Bearer {signed(supabase)}"])
    assert known.status_code == 200
    assert not stranger.done()
    supabase.open.set()
    assert [answer.status_code for answer in await stranger] == [401]


def admins(supabase, **changes):
    return f"Bearer {signed(supabase, sub=str(ADMIN.id), app_metadata=ADMIN.app_metadata, **changes)}"


def test_an_admin_is_one_by_app_metadata(knock, supabase):
    assert knock(admins(supabase), "admin").json() == {"id": str(ADMIN.id)}


@pytest.mark.parametrize(
    "changes",
    [
        {"user_metadata": {"role": "admin"}},
        {"app_metadata": {"role": ["admin"]}},
        {"app_metadata": {"role": "Admin"}},
        {"app_metadata": "admin"},
        {"app_metadata": None},
    ],
    ids=str,
)
def test_nobody_else_is_an_admin(knock, supabase, changes):
    answer = knock(f"Bearer {signed(supabase, **changes)}", "admin")
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("door", ["fresh", "admin"])
@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_session_that_has_ended_opens_no_door_of_consequence(knock, supabase, door, status):
    supabase.session_status = status
    answer = knock(admins(supabase), door)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
    assert knock(admins(supabase)).status_code == 200  # to the others the token is good until it expires


@pytest.mark.parametrize("status", [302, 429, 500, 503])
def test_a_session_that_cannot_be_checked_is_a_503_and_not_a_sign_out(knock, supabase, status):
    supabase.session_status = status
    answer = knock(admins(supabase), "admin")
    assert (answer.status_code, answer.json()["code"]) == (503, "sign_in_unavailable")


def test_a_session_is_checked_again_after_30_s(knock, supabase, clock):
    for _ in range(3):
        assert knock(admins(supabase), "admin").status_code == 200
    assert supabase.checks == 1
    supabase.session_status = 403
    clock.now += 31
    assert knock(admins(supabase), "admin").status_code == 401


def test_a_clock_that_was_set_back_does_not_prolong_a_session(knock, supabase, clock):
    assert knock(admins(supabase), "admin").status_code == 200
    supabase.session_status = 403
    clock.now -= 3_600
    assert knock(admins(supabase), "admin").status_code == 401


def test_one_session_does_not_vouch_for_another(knock, supabase):
    assert knock(admins(supabase), "admin").status_code == 200
    supabase.session_status = 403
    assert knock(admins(supabase, session_id=str(uuid.uuid4())), "admin").status_code == 401


def test_a_caller_shows_its_token_to_no_log(people_caller):
    assert "secret-token" not in repr(people_caller)


@pytest.fixture
def people_caller():
    return auth.Caller(ADA.id, claims(ADA), SecretStr("secret-token"))


def test_openapi_asks_for_a_bearer_token(application):
    (scheme,) = application.openapi()["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"], scheme["bearerFormat"]) == ("http", "bearer", "JWT")


NETLIFY_SECRET = "a secret that Netlify and we share, of good length"


def netlify(secret=NETLIFY_SECRET, **changes):
    said = {"iss": "netlify", "exp": int(time.time()) + 300, "site_url": "https://site.test", **changes}
    return jwt.encode({name: value for name, value in said.items() if value is not None}, secret, "HS256")


@pytest.fixture
def site(monkeypatch, supabase):
    monkeypatch.setenv("NETLIFY_SIGNING_SECRET", NETLIFY_SECRET)
    app = create_app("site")

    @app.get("/site")
    async def site() -> dict[str, bool]:
        return {"ok": True}

    return TestClient(app, raise_server_exceptions=False)


def test_netlifys_signature_is_accepted_and_none_is_needed(site):
    assert site.get("/v1/site", headers={"x-nf-sign": netlify()}).status_code == 200
    assert site.get("/v1/site").status_code == 200


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(lambda: netlify("another secret, of the same good length, surely"), id="another secret"),
        pytest.param(lambda: netlify(iss="evil"), id="another issuer"),
        pytest.param(lambda: netlify(iss=None), id="no issuer"),
        pytest.param(lambda: netlify(exp=int(time.time()) - 11), id="expired"),
        pytest.param(lambda: netlify(exp=None), id="no expiry"),
        pytest.param(lambda: by_hand({"alg": "none"}, {"iss": "netlify", "exp": 9_999_999_999}), id="unsigned"),
        pytest.param(lambda: by_hand(NESTED, {}), id="nested too deep"),
        pytest.param(lambda: "garbage", id="garbage"),
        pytest.param(lambda: "", id="empty"),
    ],
)
def test_a_signature_that_is_not_netlifys_is_refused(site, signature):
    answer = site.get("/v1/site", headers={"x-nf-sign": signature()})
    assert (answer.status_code, answer.json()["code"]) == (403, "signature_invalid")
