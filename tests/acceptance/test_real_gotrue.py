"""Tokens of Supabase's real sign-in server open our doors, and the local stand-in speaks as the real one does."""

import uuid

import httpx
import jwt
import pytest
from fastapi.testclient import TestClient

from agentkit.auth import CurrentCaller, FreshCaller
from agentkit.http import create_app

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


def test_both_say_the_same_of_a_person(real, local, email):
    said = []
    for server in (real, local):
        server.sign_up(email).raise_for_status()
        said.append(claims_of(server.sign_in(email)))
    assert said[0].keys() == said[1].keys()
    assert {name: type(value) for name, value in said[0].items()} == {
        name: type(value) for name, value in said[1].items()
    }
    same = {"aud", "role", "aal", "is_anonymous", "email", "phone", "app_metadata"}
    assert {name: said[0][name] for name in same} == {name: said[1][name] for name in same}


def test_both_answer_a_sign_in_alike(real, local, email):
    answers = []
    for server in (real, local):
        server.sign_up(email).raise_for_status()
        answers.append(server.sign_in(email).json())
    real_answer, local_answer = answers
    # A weak password's remark is there only for one that is.
    assert set(local_answer) == set(real_answer) - {"weak_password"}
    assert set(local_answer["user"]) == set(real_answer["user"])
    assert {name: type(value) for name, value in local_answer["user"].items()} == {
        name: type(value) for name, value in real_answer["user"].items()
    }


def test_both_publish_a_key_alike(real, local):
    (theirs,), (ours,) = (server.call("GET", ".well-known/jwks.json").json()["keys"] for server in (real, local))
    assert ours.keys() == theirs.keys()
    identity = {"kid", "x", "y"}
    assert {k: v for k, v in ours.items() if k not in identity} == {
        k: v for k, v in theirs.items() if k not in identity
    }


def refusals(server, email):
    """What goes wrong in a client's life, each with what the server says of it."""
    first = server.sign_up(email).json()
    signed_out = server.sign_in(email).json()["access_token"]
    server.call("POST", "logout?scope=local", token=signed_out).raise_for_status()
    return {
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


def test_both_refuse_alike(real, local, email):
    told = [
        {
            name: (answer.status_code, answer.json().get("error_code"))
            for name, answer in refusals(server, email).items()
        }
        for server in (real, local)
    ]
    assert told[1] == told[0]


def test_both_name_an_error_by_the_same_members(real, local, email):
    theirs, ours = (server.sign_in(email).json() for server in (real, local))
    assert ours == theirs


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
