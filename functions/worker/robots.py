"""What a site's robots.txt lets us fetch: RFC 9309, by protego."""

from protego import Protego

# As much of it as RFC 9309 wants read at least; rules beyond count for nobody.
MAX_BYTES = 500 * 1_024
# Each rule is kept once for each name above it, so a file of nothing but names and rules would fill gigabytes.
MAX_WORK = 1_000_000


class Rules:
    """The rules of one site."""

    def __init__(self, content: bytes, *, whole: bool) -> None:
        lines = content.decode("utf-8-sig", "replace").splitlines()
        if not whole:
            # Cut in the middle, `Disallow: /private` might read `Disallow: /`.
            del lines[-1:]
        names = sum("agent" in line.lower() for line in lines)
        self._rules = Protego.parse("\n".join(lines)) if names * len(lines) <= MAX_WORK else None

    def allow(self, url: str, *, agent: str) -> bool:
        """Whether who goes by that name may fetch the address; nobody may where the rules are beyond reading."""
        return self._rules is not None and self._rules.can_fetch(url, agent)
