"""On the whole stack: a file that is in the bucket becomes a document that is ready, though nobody asks for it."""

import time

import httpx

CONTENT = b"# Lease\n\nThe lease ends on 30 September 2027."


def sign_in(environment):
    """Ada's headers."""
    answer = httpx.post(
        f"{environment['SUPABASE_URL']}/auth/v1/token?grant_type=password",
        headers={"apikey": environment["SUPABASE_PUBLISHABLE_KEY"]},
        json={"email": environment["DEMO_ADA_EMAIL"], "password": environment["DEMO_ADA_PASSWORD"]},
    )
    return {"Authorization": f"Bearer {answer.raise_for_status().json()['access_token']}"}


def test_an_upload_is_ingested_when_the_bucket_tells_of_it(stack):
    with httpx.Client(
        base_url=stack.environment["AGENTKIT_URL"], headers=sign_in(stack.environment), timeout=60
    ) as ada:
        new = {"filename": "lease.md", "media_type": "text/markdown", "size_bytes": len(CONTENT)}
        document = ada.post("/v1/documents", json=new).raise_for_status().json()
        httpx.put(document["upload"]["url"], headers=document["upload"]["headers"], content=CONTENT).raise_for_status()
        ends = time.monotonic() + 60
        while (found := ada.get(f"/v1/documents/{document['id']}").json())["status"] != "ready":
            assert time.monotonic() < ends, found
            time.sleep(0.6)
    assert found["passages"] == 1
