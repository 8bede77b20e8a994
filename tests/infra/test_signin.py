"""The local sign-in does for Supabase's own client what Supabase does, and its tokens open our doors."""

import asyncio
import os
import signal
import stat

import httpx
import pytest
from fastapi.testclient import TestClient
from supabase import AuthApiError, create_client
from supabase.lib.client_options import SyncClientOptions

from agentkit import auth
from agentkit.auth import Admin, CurrentCaller, FreshCaller
from agentkit.http import create_app
from infra.local.signin import API_KEY, PASSWORD, SignIn
from tests.parts.people import ADA, ADMIN, BOB


@pytest.fixture
def browser(signin):
    """Supabase's own SDK, one signed-out client of it for each call."""
    clients = []

    def open_browser():
        http = httpx.Client()
        options = SyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
        client = create_client(signin.environment["SUPABASE_URL"], API_KEY, options)
        clients.append(http)
        return client.auth

    yield open_browser
    for http in clients:
        http.close()


def sign_in(browser, person=ADA, password=PASSWORD):
    return browser.sign_in_with_password({"email": person.email, "password": password}).session


@pytest.fixture
def knock(signin):
    app = create_app("doors")

    @app.get("/doors/anyone")
    async def anyone(caller: CurrentCaller) -> str:
        return str(caller.id)

    @app.get("/doors/fresh")
    async def fresh(caller: FreshCaller) -> str:
        return str(caller.id)

    @app.get("/doors/admin")
    async def admin(caller: Admin) -> str:
        return str(caller.id)

    with TestClient(app) as client:
        yield lambda door, session: client.get(
            f"/v1/doors/{door}", headers={"Authorization": f"Bearer {session.access_token}"}
        )


@pytest.mark.parametrize("person", [ADA, BOB, ADMIN], ids=lambda person: person.email)
def test_the_demo_people_can_sign_in_and_are_known_to_the_functions(browser, knock, person):
    answer = knock("anyone", sign_in(browser(), person))
    assert (answer.status_code, answer.json()) == (200, str(person.id))


def test_only_the_admin_is_one(browser, knock):
    assert knock("admin", sign_in(browser(), ADMIN)).status_code == 200
    assert knock("admin", sign_in(browser(), BOB)).status_code == 403


def test_supabases_client_gets_the_user(browser):
    client = browser()
    sign_in(client)
    found = client.get_user()
    assert found is not None
    assert (found.user.id, found.user.email) == (str(ADA.id), ADA.email)


def test_supabases_client_verifies_the_token_by_the_published_key(browser):
    client = browser()
    session = sign_in(client)
    said = client.get_claims(session.access_token)
    assert said is not None
    assert said["claims"]["sub"] == str(ADA.id)


def test_supabases_client_renews_its_session(browser, knock):
    client = browser()
    first = sign_in(client)
    second = client.refresh_session().session
    assert second is not None
    assert second.refresh_token != first.refresh_token
    assert knock("anyone", second).status_code == 200


def test_a_refresh_token_used_twice_ends_the_session(browser):
    client = browser()
    first = sign_in(client)
    second = client.refresh_session(first.refresh_token).session
    assert second is not None
    with pytest.raises(AuthApiError, match="Already Used"):
        browser().refresh_session(first.refresh_token)
    with pytest.raises(AuthApiError, match="Not Found"):
        browser().refresh_session(second.refresh_token)


def test_a_signed_out_session_opens_no_door_of_consequence(browser, knock):
    client = browser()
    session = sign_in(client)
    client.sign_out({"scope": "local"})
    answer = knock("fresh", session)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")


@pytest.mark.parametrize(("scope", "here", "there"), [("local", 401, 200), ("others", 200, 401), ("global", 401, 401)])
def test_signing_out_ends_the_sessions_that_it_says(browser, knock, scope, here, there):
    leaving, elsewhere = browser(), browser()
    first, second = sign_in(leaving), sign_in(elsewhere)
    leaving.sign_out({"scope": scope})
    assert (knock("fresh", first).status_code, knock("fresh", second).status_code) == (here, there)


def test_a_wrong_password_is_refused(browser):
    with pytest.raises(AuthApiError) as refused:
        sign_in(browser(), ADA, "wrong password")
    assert (refused.value.code, refused.value.status) == ("invalid_credentials", 400)


def test_someone_new_can_sign_up_and_change_the_password(browser, knock):
    client = browser()
    made = client.sign_up({"email": "grace@example.com", "password": "first password"})
    assert made.session is not None
    assert knock("anyone", made.session).status_code == 200
    client.update_user({"password": "second password", "data": {"role": "admin"}})
    again = browser().sign_in_with_password({"email": "grace@example.com", "password": "second password"})
    # What people say of themselves makes nobody an admin.
    assert again.user is not None
    assert again.user.user_metadata == {"role": "admin"}
    assert knock("admin", again.session).status_code == 403
    with pytest.raises(AuthApiError):
        browser().sign_in_with_password({"email": "grace@example.com", "password": "first password"})


def test_without_the_projects_key_nothing_is_answered_but_what_is_public(signin):
    url = f"{signin.environment['SUPABASE_URL']}/auth/v1"
    assert httpx.post(f"{url}/token?grant_type=password", json={}).status_code == 401
    assert httpx.get(f"{url}/.well-known/jwks.json").status_code == 200
    assert httpx.get(f"{url}/health").status_code == 200


def test_a_browser_on_any_local_origin_may_ask(signin):
    answer = httpx.options(
        f"{signin.environment['SUPABASE_URL']}/auth/v1/token",
        headers={
            "Origin": "http://localhost:3000",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "apikey,authorization,content-type,x-client-info",
        },
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] in ("*", "http://localhost:3000")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"email": "\\ud800", "password": "\\ud800"}'])
def test_a_body_of_nonsense_is_refused_in_gotrues_words(signin, body):
    answer = httpx.post(
        f"{signin.environment['SUPABASE_URL']}/auth/v1/token?grant_type=password",
        content=body,
        headers={"apikey": API_KEY},
    )
    assert answer.status_code == 400
    assert answer.json().keys() == {"code", "error_code", "msg"}


def test_a_restart_keeps_accounts_keys_and_sessions(tmp_path, monkeypatch):
    first = SignIn(tmp_path)
    monkeypatch.setenv("SUPABASE_URL", first.environment["SUPABASE_URL"])
    auth.forget()
    url = f"{first.environment['SUPABASE_URL']}/auth/v1"
    first.start()
    try:
        answer = httpx.post(
            f"{url}/token?grant_type=password",
            json={"email": ADA.email, "password": PASSWORD},
            headers={"apikey": API_KEY},
        )
    finally:
        first.stop()
    second = SignIn(tmp_path, port=first.port)
    second.start()
    try:
        caller = asyncio.run(auth.verify(answer.json()["access_token"]))
        assert caller.id == ADA.id
        renewed = httpx.post(
            f"{url}/token?grant_type=refresh_token",
            json={"refresh_token": answer.json()["refresh_token"]},
            headers={"apikey": API_KEY},
        )
        assert renewed.status_code == 200
    finally:
        second.stop()


def test_key_and_passwords_are_their_owners_alone(tmp_path):
    server = SignIn(tmp_path)
    server.start()
    server.stop()
    assert stat.S_IMODE((tmp_path / "signin").stat().st_mode) == 0o700
    assert PASSWORD.encode() not in (tmp_path / "signin" / "accounts.sqlite").read_bytes()


def test_it_says_that_it_died(tmp_path):
    server = SignIn(tmp_path)
    server.start()
    pid = server._process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert str(server.failure()).startswith("sign-in ended with status -9.")
    server.stop()
