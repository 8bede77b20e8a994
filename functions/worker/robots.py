"""What a site's robots.txt lets us fetch: RFC 9309, by protego."""

import re

from protego import Protego

# As much of it as RFC 9309 wants read at least; rules beyond count for nobody.
MAX_BYTES = 500 * 1_024
# Where protego sees a name, however it is misspelt.
NAMED = re.compile(r"\s*user[-\s]*agent[\s:]*([^\s/#]*)", re.IGNORECASE)


class Rules:
    """The rules of one site for whoever goes by that name."""

    def __init__(self, content: bytes, *, whole: bool, agent: str) -> None:
        lines = content.decode("utf-8-sig", "replace").splitlines()
        if not whole:
            # Cut in the middle, `Disallow: /private` might read `Disallow: /`.
            del lines[-1:]
        self._agent = agent.lower()
        # protego keeps each rule once for each name above it: nothing but names and rules would fill gigabytes.
        self._rules = Protego.parse("\n".join(map(self._with_others_as_one, lines)))

    def allow(self, url: str) -> bool:
        """Whether the address may be fetched."""
        return self._rules.can_fetch(url, self._agent)

    def _with_others_as_one(self, line: str) -> str:
        found = NAMED.match(line)
        if not found:
            return line
        name = found[1].lower()
        return f"User-agent: {name if name in {'*', self._agent} else 'another'}"
