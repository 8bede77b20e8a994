"""Tokens of Supabase's real sign-in server open our doors, and the local stand-in speaks as the real one does.

`gotrue.json` is what the real one (supabase/auth v2.196.0) said to these very questions, for machines that have none.
"""

import json
import uuid
from datetime import datetime
from pathlib import Path

import httpx
import jwt
import pytest
from fastapi.testclient import TestClient

from agentkit import auth
from agentkit.auth import CurrentCaller, FreshCaller
from agentkit.http import create_app

RECORDED = json.loads((Path(__file__).parent / "gotrue.json").read_text())
PASSWORD = "correct horse battery staple"


class Server:
    """One of the two sign-in servers."""

    def __init__(self, url, key):
        self.http = httpx.Client(base_url=url, headers={"apikey": key})

    def call(self, method, path, *, token=None, **sent):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.http.request(method, path, headers=headers, **sent)

    def sign_up(self, email, password=PASSWORD):
        return self.call("POST", "signup", json={"email": email, "password": password})

    def sign_in(self, email, password=PASSWORD):
        return self.call("POST", "token?grant_type=password", json={"email": email, "password": password})

    def refresh(self, token):
        return self.call("POST", "token?grant_type=refresh_token", json={"refresh_token": token})


@pytest.fixture
def real(gotrue):
    server = Server(f"{gotrue}/auth/v1/", "the gateway asks for none")
    yield server
    server.http.close()


@pytest.fixture
def local(signin_server):
    environment = signin_server.environment
    server = Server(f"{environment['SUPABASE_URL']}/auth/v1/", environment["SUPABASE_PUBLISHABLE_KEY"])
    yield server
    server.http.close()


@pytest.fixture
def email():
    return f"{uuid.uuid4()}@example.com"


def claims_of(answer):
    return jwt.decode(answer.json()["access_token"], options={"verify_signature": False})


@pytest.fixture
def knock():
    """Knock at one of our doors with a token."""
    app = create_app("real")

    @app.get("/real/anyone")
    async def anyone(caller: CurrentCaller) -> dict[str, str]:
        return {"id": str(caller.id)}

    @app.get("/real/fresh")
    async def fresh(caller: FreshCaller) -> dict[str, str]:
        return {"id": str(caller.id)}

    with TestClient(app) as client:
        yield lambda token, door="anyone": client.get(f"/v1/real/{door}", headers={"Authorization": f"Bearer {token}"})


def test_a_token_that_a_real_server_signed_names_its_person(knock, monkeypatch):
    claimed = jwt.decode(RECORDED["token"], options={"verify_signature": False})

    class ThatDay(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(claimed["iat"] + 1, tz)

    monkeypatch.setattr("jwt.api_jwt.datetime", ThatDay)
    monkeypatch.setenv("SUPABASE_URL", claimed["iss"].removesuffix("/auth/v1"))
    monkeypatch.setenv("SUPABASE_JWKS", json.dumps(RECORDED["jwks"]))
    auth.forget()
    assert knock(RECORDED["token"]).json() == {"id": RECORDED["user_id"]}
    changed = RECORDED["token"][:-8] + "AAAAAAAA"
    assert knock(changed).status_code == 401


def test_a_real_token_names_its_person(real, email, knock):
    signed_up = real.sign_up(email)
    assert signed_up.status_code == 200, signed_up.text
    session = real.sign_in(email).json()
    assert jwt.get_unverified_header(session["access_token"])["alg"] == "ES256"
    for token in (signed_up.json()["access_token"], session["access_token"]):
        assert knock(token).json() == {"id": session["user"]["id"]}


def test_a_refreshed_real_token_names_the_same_person(real, email, knock):
    session = real.sign_up(email).json()
    renewed = real.refresh(session["refresh_token"]).json()
    assert renewed["refresh_token"] != session["refresh_token"]
    assert knock(renewed["access_token"]).json() == {"id": session["user"]["id"]}


def test_a_session_that_was_signed_out_is_refused_where_it_matters(real, email, knock):
    other = real.sign_up(email).json()["access_token"]
    token = real.sign_in(email).json()["access_token"]
    real.call("POST", "logout?scope=local", token=token).raise_for_status()
    refused = knock(token, "fresh")
    assert (refused.status_code, refused.json()["code"]) == (401, "token_invalid")
    assert knock(token).status_code == 200  # its signature is sound until it expires
    assert knock(other, "fresh").status_code == 200  # the person's other session goes on


def kinds(document):
    return {name: type(value).__name__ for name, value in document.items()}


def claims(server, email):
    """What a token says: its members' types, and the values that no two people differ in."""
    server.sign_up(email).raise_for_status()
    said = claims_of(server.sign_in(email))
    same = ("aud", "role", "aal", "is_anonymous", "phone", "app_metadata")
    return {"types": kinds(said), "values": {name: said[name] for name in same}}


def sign_in(server, email):
    """What answers a sign-in, and what it tells of the person."""
    server.sign_up(email).raise_for_status()
    answer = server.sign_in(email).json()
    # A weak password's remark is there only for one that is.
    return {"members": sorted(set(answer) - {"weak_password"}), "user": kinds(answer["user"])}


def key(server, _):
    """What is published of the key that signs, its own identity aside."""
    (published,) = server.call("GET", ".well-known/jwks.json").json()["keys"]
    identity = {"kid", "x", "y"}
    return {"members": sorted(published), "values": {k: v for k, v in published.items() if k not in identity}}


def error(server, email):
    """The whole of an error."""
    return server.sign_in(email).json()


def refusals(server, email):
    """What goes wrong in a client's life, each with what the server says of it."""
    first = server.sign_up(email).json()
    signed_out = server.sign_in(email).json()["access_token"]
    server.call("POST", "logout?scope=local", token=signed_out).raise_for_status()
    answers = {
        "signed up twice": server.sign_up(email),
        "weak password": server.sign_up(f"new-{email}", "abc"),
        "no email": server.sign_up("nobody"),
        "wrong password": server.sign_in(email, "wrong password"),
        "nobody of that name": server.sign_in(f"unknown-{email}"),
        "no such grant": server.call("POST", "token?grant_type=magic", json={}),
        "no such refresh token": server.refresh("unheardof123"),
        "refresh token of another form": server.refresh("unheard-of"),
        "empty refresh token": server.refresh(""),
        "not JSON": server.http.post(
            "token?grant_type=password", content=b"{", headers={"Content-Type": "application/json"}
        ),
        "no token": server.call("GET", "user"),
        "garbage for a token": server.call("GET", "user", token="garbage"),
        "signed out": server.call("GET", "user", token=signed_out),
        "weak password to change to": server.call("PUT", "user", token=first["access_token"], json={"password": "abc"}),
        "the same password": server.call("PUT", "user", token=first["access_token"], json={"password": PASSWORD}),
    }
    return {name: [answer.status_code, answer.json().get("error_code")] for name, answer in answers.items()}


TOPICS = {topic.__name__: topic for topic in (claims, sign_in, key, error, refusals)}


@pytest.mark.parametrize("topic", TOPICS)
def test_the_local_server_says_what_the_real_one_said(local, email, topic):
    assert TOPICS[topic](local, email) == RECORDED["says"][topic]


@pytest.mark.parametrize("topic", TOPICS)
def test_the_real_server_still_says_it(real, email, topic):
    assert TOPICS[topic](real, email) == RECORDED["says"][topic]


def test_both_renew_and_end_a_session_alike(real, local, email):
    for server in (real, local):
        first = server.sign_up(email).json()
        renewed = server.refresh(first["refresh_token"])
        assert renewed.status_code == 200
        assert renewed.json()["refresh_token"] != first["refresh_token"]
        claims = claims_of(renewed)
        assert (
            claims["session_id"] == jwt.decode(first["access_token"], options={"verify_signature": False})["session_id"]
        )
        token = renewed.json()["access_token"]
        assert server.call("POST", "logout?scope=global", token=token).status_code == 204
        assert server.refresh(renewed.json()["refresh_token"]).status_code == 400
