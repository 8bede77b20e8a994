"""Supabase's sign-in on this machine, with Ada, Bob and an admin."""

import json
from collections.abc import Mapping
from pathlib import Path

from infra.local.part import LOOPBACK, Server

# Known to everyone who reads this, and good for nothing but a stack on one's own machine.
API_KEY = "sb_publishable_local"
PASSWORD = "correct horse battery staple"  # noqa: S105
PEOPLE = {
    "ADA": ("00000000-0000-4000-8000-00000000000a", "ada@example.com", None),
    "BOB": ("00000000-0000-4000-8000-00000000000b", "bob@example.com", None),
    "ADMIN": ("00000000-0000-4000-8000-00000000000d", "admin@example.com", "admin"),
}


class SignIn(Server):
    """The sign-in server's process; stopped, it keeps accounts and keys."""

    name = "sign-in"

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self._folder = folder / "signin"
        super().__init__("infra.local.signin_server", self._folder, port=port, log=folder / "logs" / "signin.log")

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
        super().start()
