"""A web address to its bytes, for whoever wants a page or file of the web to be a document.

The address is a stranger's, and so is the site. Only the public web is connected to (`addresses`), anew at each
redirect; nothing of ours goes along, neither cookies nor credentials, and no proxy; size, time and redirects are
limited; a site's robots.txt is respected (`robots`), at each site that a redirect leads to.

What cannot be had raises FetchFailed with a code that stays the same:

    url_invalid       is no address of the web            url_unreachable   does not answer, or not just now
    url_forbidden     is not on the public web            url_refused       answers, but not with the page
    url_robots        must not be fetched by programs     too_large         took_too_long
"""

import asyncio
import re
import ssl
import zlib
from contextlib import AsyncExitStack
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import unquote

import httpcore
import httpx

from agentkit.settings import FetchSettings, load
from functions.worker import robots
from functions.worker.addresses import NoSuchName, NotPublic, PublicInternet

MAX_URL_CHARACTERS = 2_048
MAX_REDIRECTS = 5
MAX_FILENAME_CHARACTERS = 200

ACCEPT = "text/html,application/xhtml+xml,application/pdf,text/markdown,text/plain;q=0.9,*/*;q=0.8"
GZIP = {"gzip", "x-gzip"}
REDIRECTS = {301, 302, 303, 307, 308}
SUCCESSES = {200, 203}
GONE = {404, 410}
TRANSIENT = {408, 425, 429}

NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
MAX_NAME_CHARACTERS = 253
# httpcore takes 0 for none.
PORTS = range(1, 65_536)
# Where a host ends in a number, resolvers read all of it as an IPv4 address, in any of C's spellings.
ENDS_IN_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)
# RFC 6266: `filename*` says its encoding and goes first.
ENCODED_FILENAME = re.compile(r"filename\*\s*=\s*(utf-8|iso-8859-1)'[^']*'([^;\s]+)", re.IGNORECASE)
FILENAME = re.compile(r'filename\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s"]+))', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a web address led to."""

    content: bytes
    media_type: str
    """What the site says it is, without parameters; empty when it says nothing usable. The bytes know better."""
    filename: str
    url: str
    """Where it was in the end."""


class FetchFailed(Exception):  # noqa: N818  # reads as what happened
    """The address gave nothing that can be used; the sentence is for whoever gave it."""

    def __init__(self, code: str, sentence: str, *, retriable: bool = False) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence
        self.retriable = retriable
        """Whether it may pass by itself."""


async def fetch(url: str, *, max_bytes: int) -> Fetched:
    """Return what is at the address; raises FetchFailed."""
    settings = load(FetchSettings)
    start = _usable(url)
    try:
        async with asyncio.timeout(settings.fetch_seconds), _connections(settings) as connections:
            return await _Visit(connections, settings).fetch(start, max_bytes=max_bytes)
    except TimeoutError as error:
        raise FetchFailed("took_too_long", f"The site needs more than {settings.fetch_seconds:g} seconds.") from error


def _connections(settings: FetchSettings) -> httpcore.AsyncConnectionPool:
    # httpcore alone: no cookies, no redirects, no proxies from the environment, no .netrc.
    return httpcore.AsyncConnectionPool(
        ssl_context=httpx.create_ssl_context(),
        network_backend=PublicInternet(allowed=settings.fetch_allowed_networks),
    )


@dataclass(frozen=True, slots=True)
class _Answer:
    url: httpx.URL
    status: int
    headers: httpx.Headers
    content: bytes
    """Empty unless the status is one of SUCCESSES."""
    whole: bool
    """False when there was more of it than was wanted."""


class _Visit:
    """One address being fetched, over as many redirects as that takes."""

    def __init__(self, connections: httpcore.AsyncConnectionPool, settings: FetchSettings) -> None:
        self._connections = connections
        self._agent = settings.fetch_user_agent
        self._silence = settings.fetch_silence_seconds
        self._rules: dict[str, robots.Rules] = {}
        """By the address of the robots.txt that they are in."""

    async def fetch(self, url: httpx.URL, *, max_bytes: int) -> Fetched:
        answer = await self._follow(url, max_bytes=max_bytes, politely=True)
        if answer.status not in SUCCESSES:
            raise _refusal(answer.status)
        if not answer.whole:
            raise FetchFailed("too_large", f"What is at the address is larger than {max_bytes:,} bytes.")
        return Fetched(answer.content, _media_type(answer.headers), _filename(answer), str(answer.url))

    async def _follow(self, url: httpx.URL, *, max_bytes: int, politely: bool) -> _Answer:
        """Return the answer at the end of the redirects; politely: having asked each site's robots.txt."""
        for _ in range(1 + MAX_REDIRECTS):
            if politely:
                await self._ask_leave(url)
            answer = await self._get(url, max_bytes=max_bytes)
            target = answer.headers.get("Location")
            if answer.status not in REDIRECTS or not target:
                return answer
            url = _redirected(url, target)
        raise FetchFailed("url_refused", f"The address redirects more than {MAX_REDIRECTS} times.")

    async def _ask_leave(self, url: httpx.URL) -> None:
        """Return if the site's robots.txt lets us fetch the address."""
        place = url.copy_with(raw_path=b"/robots.txt")
        if str(place) not in self._rules:
            self._rules[str(place)] = await self._rules_at(place)
        if not self._rules[str(place)].allow(str(url)):
            raise FetchFailed("url_robots", "The site does not let programs fetch this address (robots.txt).")

    async def _rules_at(self, place: httpx.URL) -> robots.Rules:
        answer = await self._follow(place, max_bytes=robots.MAX_BYTES, politely=False)
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            # RFC 9309: whoever cannot say what may be fetched has everything left alone until then.
            raise FetchFailed(
                "url_unreachable",
                f"The site cannot say just now whether programs may fetch from it (robots.txt: {answer.status}).",
                retriable=True,
            )
        # Without any, which is to say with a status of 4xx, everything may be fetched.
        return robots.Rules(answer.content, whole=answer.whole, agent=self._agent.partition("/")[0])

    async def _get(self, url: httpx.URL, *, max_bytes: int) -> _Answer:
        try:
            return await self._answer(url, max_bytes=max_bytes)
        except NotPublic as error:
            raise FetchFailed("url_forbidden", str(error)) from error
        except NoSuchName as error:
            raise FetchFailed("url_unreachable", f"There is no site named {url.host}.") from error
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            # httpcore's pool takes the cause away (`raise … from None`); the context stays.
            if isinstance(error.__context__, ssl.SSLCertVerificationError):
                sentence = "The site cannot prove that it is the one it was asked for: its certificate is not valid."
                raise FetchFailed("url_unreachable", sentence) from error
            raise FetchFailed("url_unreachable", "The site does not answer properly.", retriable=True) from error

    async def _answer(self, url: httpx.URL, *, max_bytes: int) -> _Answer:
        async with AsyncExitStack() as stack:
            # httpcore's own limits are for each read: a head could come for ever, letter by letter.
            async with asyncio.timeout(self._silence):
                response = await stack.enter_async_context(
                    self._connections.stream(
                        "GET",
                        httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                        headers={
                            "Host": url.netloc.decode(),
                            "User-Agent": self._agent,
                            "Accept": ACCEPT,
                            "Accept-Encoding": "gzip",
                        },
                        extensions={"timeout": dict.fromkeys(["connect", "read", "write", "pool"], self._silence)},
                    )
                )
            headers = httpx.Headers(response.headers)
            content, whole = b"", True
            if response.status in SUCCESSES:
                content, whole = await _body(response, headers, max_bytes=max_bytes)
            return _Answer(url, response.status, headers, content, whole)


async def _body(response: httpcore.Response, headers: httpx.Headers, *, max_bytes: int) -> tuple[bytes, bool]:
    """Return the body, unpacked, up to so many bytes; and whether that was all."""
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in GZIP | {"identity", ""}:
        raise FetchFailed("url_refused", "The site sends the page packed in a way that was not asked for.")
    unpacking = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS) if encoding in GZIP else None
    content = bytearray()
    async for chunk in response.aiter_stream():
        try:
            # Never more than one byte too many: a thousandth of that can hold it.
            content += unpacking.decompress(chunk, max_bytes + 1 - len(content)) if unpacking else chunk
        except zlib.error as error:
            raise httpcore.RemoteProtocolError from error
        if len(content) > max_bytes:
            return bytes(content[:max_bytes]), False
        if unpacking and unpacking.eof:
            break
    if unpacking and not unpacking.eof:
        raise httpcore.RemoteProtocolError("the packed body broke off")
    return bytes(content), True


def _usable(text: str) -> httpx.URL:
    """Return the address without its fragment; raises FetchFailed when it is none of the web."""
    if len(text) > MAX_URL_CHARACTERS:
        raise FetchFailed("url_invalid", f"The address is longer than {MAX_URL_CHARACTERS:,} characters.")
    try:
        url = httpx.URL(text.strip()).copy_with(fragment=None)
    except (httpx.InvalidURL, ValueError) as error:
        raise FetchFailed("url_invalid", "The address is not one of the web.") from error
    if not url.scheme:
        raise FetchFailed("url_invalid", "The address must begin with https:// or http://.")
    if url.scheme not in {"http", "https"}:
        raise FetchFailed("url_forbidden", "Only addresses that begin with https:// or http:// are fetched.")
    if url.userinfo:
        raise FetchFailed("url_invalid", "The address must not hold a name or password.")
    host = url.raw_host.decode().removesuffix(".")
    if not _is_host(host) or (url.port is not None and url.port not in PORTS):
        raise FetchFailed("url_invalid", "The address has no proper host name or port.")
    return url.copy_with(host=host)


def _is_host(host: str) -> bool:
    """Whether it is a name, or an IP address as it is usually written."""
    try:
        if ":" in host:
            return IPv6Address(host).scope_id is None
        if ENDS_IN_NUMBER.fullmatch(host):
            return str(IPv4Address(host)) == host
    except ValueError:
        return False
    return len(host) <= MAX_NAME_CHARACTERS and NAME.fullmatch(host) is not None


def _redirected(url: httpx.URL, target: str) -> httpx.URL:
    try:
        joined = url.join(target)
    except (httpx.InvalidURL, ValueError) as error:
        raise FetchFailed("url_invalid", "The address redirects to one that is not of the web.") from error
    following = _usable(str(joined))
    if url.scheme == "https" and following.scheme == "http":
        raise FetchFailed("url_forbidden", "The address redirects from https to http, where anyone could change it.")
    return following


def _refusal(status: int) -> FetchFailed:
    if status in GONE:
        return FetchFailed("url_refused", f"There is nothing at the address ({status}).")
    if status in TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return FetchFailed("url_unreachable", f"The site cannot answer just now ({status}).", retriable=True)
    return FetchFailed("url_refused", f"The site does not give out what is at the address ({status}).")


def _media_type(headers: httpx.Headers) -> str:
    told = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return told if MEDIA_TYPE.fullmatch(told) else ""


def _filename(answer: _Answer) -> str:
    """Return the name that the site gives the file, or the address's last part, or the host."""
    told = answer.headers.get("Content-Disposition", "")
    name = ""
    if found := ENCODED_FILENAME.search(told):
        name = unquote(found[2], encoding=found[1])
    elif found := FILENAME.search(told):
        name = re.sub(r"\\(.)", r"\1", found[1] or "") or found[2] or ""
    return _clean(name) or _clean(answer.url.path) or answer.url.host


def _clean(path: str) -> str:
    """Return the last part of a path, as a file can be named; the end of a long one, which says what it is."""
    name = re.split(r"[/\\]", path)[-1]
    return "".join(filter(str.isprintable, name))[-MAX_FILENAME_CHARACTERS:].strip(" .")
