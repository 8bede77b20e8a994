"""Supabase's sign-in on this machine, with Ada, Bob and an admin."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from infra.local.part import LOOPBACK, Process, accepts, free_port

# Known to everyone who reads this, and good for nothing but a stack on one's own machine.
API_KEY = "sb_publishable_local"
PASSWORD = "correct horse battery staple"  # noqa: S105
PEOPLE = {
    "ADA": ("00000000-0000-4000-8000-00000000000a", "ada@example.com", None),
    "BOB": ("00000000-0000-4000-8000-00000000000b", "bob@example.com", None),
    "ADMIN": ("00000000-0000-4000-8000-00000000000d", "admin@example.com", "admin"),
}


class SignIn:
    """The sign-in server's process."""

    name = "sign-in"

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self.port = port or free_port()
        self._folder = folder / "signin"
        self._process = Process(
            self.name,
            [sys.executable, "-m", "infra.local.signin_server", str(self.port), self._folder],
            log=folder / "logs" / "signin.log",
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """Where it is, the key that browsers send, and the demo people's credentials."""
        credentials = {
            name: value
            for person, (_, email, _) in PEOPLE.items()
            for name, value in ((f"DEMO_{person}_EMAIL", email), (f"DEMO_{person}_PASSWORD", PASSWORD))
        }
        return {
            "SUPABASE_URL": f"http://{LOOPBACK}:{self.port}",
            "SUPABASE_PUBLISHABLE_KEY": API_KEY,
            **credentials,
        }

    def start(self) -> None:
        """Return once it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        people = [
            {
                "id": identity,
                "email": email,
                "password": PASSWORD,
                "app_metadata": {"provider": "email", "providers": ["email"], **({"role": role} if role else {})},
            }
            for identity, email, role in PEOPLE.values()
        ]
        (self._folder / "configuration.json").write_text(json.dumps({"people": people, "api_key": API_KEY}))
        self._process.start(lambda: accepts(self.port))

    def stop(self) -> None:
        """End it; accounts and keys are kept."""
        self._process.stop()

    def failure(self) -> str | None:
        """Why it is not running any more, or None while it runs."""
        return self._process.failure()
