"""Fetching a web address, against real sites on loopback: what it gives, and that it leads nowhere but to the web.

Names are resolved by a table of each test's own. 127.0.0.1 is allowed and stands for the web; 127.0.0.2 is not, and
stands for what must never be reached.
"""

import asyncio
import contextlib
import datetime as dt
import gzip
import itertools
import socket
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from functions.worker import robots
from functions.worker.addresses import is_public
from functions.worker.fetch import FetchFailed, fetch

pytestmark = pytest.mark.anyio

WEB, INSIDE = "127.0.0.1", "127.0.0.2"
PUBLIC = "93.184.216.34"
MAX_BYTES = 1_000_000

Writer = asyncio.StreamWriter
Page = bytes | Callable[[Writer], Awaitable[None]]


def answer(body=b"", status=200, **headers):
    """The bytes of a whole answer; `content_type=…` is the header Content-Type."""
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    return f"HTTP/1.1 {status} Told\r\nContent-Length: {len(body)}\r\n{''.join(lines)}\r\n".encode() + body


def to(location, status=302):
    return answer(status=status, location=location)


@dataclass
class Site:
    """A server that says what it is told to, and remembers what it was asked."""

    port: int = 0
    pages: dict[str, Page] = field(default_factory=lambda: {"/robots.txt": answer(status=404)})
    heads: list[str] = field(default_factory=list)
    connections: int = 0

    @property
    def asked_for(self) -> list[str]:
        """The paths, in order."""
        return [head.split(" ")[1] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                page = self.pages.get(head.split(" ")[1], answer(status=404))
                if not isinstance(page, bytes):
                    await page(writer)
                    break
                writer.write(page)
                await writer.drain()
                if b"Connection: close" in page:
                    break


@asynccontextmanager
async def serving(address=WEB, *, port=0, tls=None) -> AsyncIterator[Site]:
    site = Site()
    going: set[asyncio.Task[None]] = set()

    async def connect(reader, writer):
        task = asyncio.current_task()
        assert task
        going.add(task)
        try:
            await site.serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()

    server = await asyncio.start_server(connect, address, port, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)


@pytest.fixture
async def site():
    async with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def the_web(monkeypatch):
    """127.0.0.1 may be fetched from, and nothing else that is not public."""
    monkeypatch.setenv("FETCH_ALLOWED_NETWORKS", f'["{WEB}/32"]')


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """Who has which addresses; for a list of lists, each question gets the next and the last one stays."""
    table: dict[str, list] = {"site.test": [WEB], "other.test": [WEB]}
    really = socket.getaddrinfo

    def resolve(host, port, *args, **kwargs):
        if host not in table:
            # An IP address, in any spelling that the C library knows, is its own; a name that is not here is nobody's.
            return really(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        found = table[host]
        if isinstance(found[0], list):
            found = found.pop(0) if len(found) > 1 else found[0]
        return [info for address in found for info in really(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return table


@pytest.fixture
def dialled(monkeypatch):
    """Where connections were tried; none comes about."""
    tried: list[tuple[str, int]] = []

    async def refuse(remote_host, remote_port, **_):
        tried.append((remote_host, remote_port))
        raise OSError("no network in tests")

    monkeypatch.setattr(anyio, "connect_tcp", refuse)
    return tried


async def get(site, path="/", *, host="site.test", max_bytes=MAX_BYTES):
    return await fetch(f"http://{host}:{site.port}{path}", max_bytes=max_bytes)


async def failure(url, *, max_bytes=MAX_BYTES):
    """How fetching the address fails."""
    with pytest.raises(FetchFailed) as caught:
        await fetch(url, max_bytes=max_bytes)
    return caught.value


async def failure_at(site, path="/", *, host="site.test", max_bytes=MAX_BYTES):
    return await failure(f"http://{host}:{site.port}{path}", max_bytes=max_bytes)


async def go_on(writer: Writer, words: bytes) -> None:
    """Send the words again and again, for 2 s at least: a ConnectionError ends it when nobody is there any more."""
    for _ in range(400):
        writer.write(words)
        await writer.drain()
        await asyncio.sleep(0.005)


# What it gives


async def test_a_page_comes_with_its_bytes_type_name_and_address(site):
    site.pages["/guide/lease.html?v=2"] = answer(b"<p>Hello", content_type="Text/HTML; charset=utf-8")
    found = await get(site, "/guide/lease.html?v=2#rent")
    assert found.content == b"<p>Hello"
    assert found.media_type == "text/html"
    assert found.filename == "lease.html"
    assert found.url == f"http://site.test:{site.port}/guide/lease.html?v=2"


@pytest.mark.parametrize(
    ("path", "disposition", "filename"),
    [
        pytest.param("/a/b.pdf", None, "b.pdf", id="the path's last part"),
        pytest.param("/M%C3%BCller%20%26%20S%C3%B6hne.pdf", None, "Müller & Söhne.pdf", id="percent-encoded"),
        pytest.param("/a/", None, "site.test", id="no last part"),
        pytest.param("/x", 'attachment; filename="lease.pdf"', "lease.pdf", id="told"),
        pytest.param("/x", "attachment; filename=lease.pdf", "lease.pdf", id="told without quotes"),
        pytest.param("/x", r'attachment; filename="my \"lease\".pdf"', 'my "lease".pdf', id="told with quotes inside"),
        # RFC 6266, section 5.
        pytest.param("/x", "attachment; filename=\"EURO.txt\"; filename*=utf-8''%e2%82%ac.txt", "€.txt", id="encoded"),
        pytest.param("/x", 'attachment; filename="../../etc/passwd"', "passwd", id="a path"),
        pytest.param("/x", r'attachment; filename="C:\\Temp\\a.txt"', "a.txt", id="a path on Windows"),
        pytest.param("/x", "attachment; filename*=utf-8''a%00b%0A.txt", "ab.txt", id="control characters"),
        pytest.param("/x", 'attachment; filename=".."', "x", id="nothing but dots"),
        pytest.param("/x", 'attachment; filename="' + "a" * 300 + '.pdf"', "a" * 196 + ".pdf", id="long"),
        pytest.param("/x", 'attachment; filename="never closed', "x", id="malformed"),
    ],
)
async def test_the_file_is_named_by_the_site_or_its_address(site, path, disposition, filename):
    site.pages[path] = answer(**({"content_disposition": disposition} if disposition else {}))
    assert (await get(site, path)).filename == filename


@pytest.mark.parametrize("told", [{}, {"content_type": "nonsense"}, {"content_type": ""}])
async def test_a_type_that_means_nothing_is_none(site, told):
    site.pages["/"] = answer(**told)
    assert (await get(site)).media_type == ""


async def test_a_packed_page_is_unpacked(site):
    site.pages["/"] = answer(gzip.compress(b"Hello" * 1_000), content_encoding="gzip")
    assert (await get(site)).content == b"Hello" * 1_000


async def test_redirects_are_followed_to_the_address_that_is_told(site):
    site.pages |= {"/a": to("/b", 301), "/b": to(f"http://other.test:{site.port}/c#part", 307), "/c": answer(b"here")}
    found = await get(site, "/a")
    assert (found.content, found.url) == (b"here", f"http://other.test:{site.port}/c")


async def test_sites_learn_who_asks_and_nothing_else_of_ours(site, monkeypatch):
    monkeypatch.setenv("FETCH_USER_AGENT", "Ours/2.0 (+https://us.test)")
    site.pages |= {"/": answer(status=302, location="/b", set_cookie="a=b; Path=/"), "/b": answer(b"here")}
    await get(site)
    sent = [dict(line.split(": ", 1) for line in head.splitlines()[1:] if line) for head in site.heads]
    names = {"Host", "User-Agent", "Accept", "Accept-Encoding"}
    assert [set(headers) for headers in sent] == [names] * 3
    assert {headers["User-Agent"] for headers in sent} == {"Ours/2.0 (+https://us.test)"}


async def test_a_name_in_any_script_is_asked_for_as_the_dns_knows_it(site, names):
    # IDNA 2008: bücher.example is xn--bcher-kva.example (RFC 3492's own example of a German name).
    names["xn--bcher-kva.example"] = [WEB]
    site.pages["/"] = answer(b"here")
    assert (await get(site, host="BÜCHER.example")).content == b"here"
    assert f"Host: xn--bcher-kva.example:{site.port}" in site.heads[-1]


async def test_a_name_with_its_last_dot_is_the_same_name(site):
    # The certificate is for the name without it, and so are the site's robots.txt and its pages.
    site.pages["/"] = answer(b"here")
    assert (await get(site, host="site.test.")).url == f"http://site.test:{site.port}/"


# Which addresses are the web's


@pytest.mark.parametrize(
    ("url", "code"),
    [
        pytest.param("", "url_invalid", id="nothing"),
        pytest.param("site.test/page", "url_invalid", id="no scheme"),
        pytest.param("https:///page", "url_invalid", id="no host"),
        pytest.param("http:site.test", "url_invalid", id="no slashes"),
        pytest.param("https://site.test:port/", "url_invalid", id="no number for a port"),
        pytest.param("https://site.test:0/", "url_invalid", id="port 0"),
        pytest.param("https://site.test:-80/", "url_invalid", id="negative port"),
        pytest.param("https://site.test:65616/", "url_invalid", id="port 80 of the next 65,536"),
        pytest.param("https://site.test/" + "a" * 2_048, "url_invalid", id="too long"),
        pytest.param("https://site.test/a\nb", "url_invalid", id="two lines"),
        pytest.param("https://si te.test/", "url_invalid", id="blank in the name"),
        pytest.param("https://" + "a" * 64 + ".test/", "url_invalid", id="label too long"),
        pytest.param("https://" + "a." * 127 + "test/", "url_invalid", id="name too long"),
        pytest.param("https://a..test/", "url_invalid", id="empty label"),
        pytest.param("https://\ud800.test/", "url_invalid", id="half a surrogate pair in the name"),
        pytest.param("https://site.test/\ud800", "url_invalid", id="half a surrogate pair in the path"),
        pytest.param("https://ada:secret@site.test/", "url_invalid", id="name and password"),
        pytest.param("https://ada@site.test/", "url_invalid", id="name"),
        pytest.param("https://site.test\\@127.0.0.2/", "url_invalid", id="backslash before another host"),
        pytest.param("file:///etc/passwd", "url_forbidden", id="file"),
        pytest.param("ftp://site.test/a", "url_forbidden", id="ftp"),
        pytest.param("gopher://site.test/a", "url_forbidden", id="gopher"),
        pytest.param("data:text/plain,hello", "url_forbidden", id="data"),
        pytest.param("javascript:alert(1)", "url_forbidden", id="javascript"),
    ],
)
async def test_what_is_no_address_of_the_web_is_refused(url, code, dialled):
    found = await failure(url)
    assert (found.code, found.retriable, dialled) == (code, False, [])


# Those of the registries that ipaddress was written from, and the ways of writing one address.
PRIVATE = {
    "this host": "0.0.0.0",  # noqa: S104  # nothing is bound to it
    "this network": "0.1.2.3",
    "private 10": "10.0.0.1",
    "carrier's NAT, first": "100.64.0.0",
    "carrier's NAT, last": "100.127.255.255",
    "loopback": INSIDE,
    "loopback, last": "127.255.255.255",
    "link-local": "169.254.0.1",
    "AWS metadata": "169.254.169.254",
    "ECS credentials": "169.254.170.2",
    "private 172, first": "172.16.0.0",
    "private 172, last": "172.31.255.255",
    "protocol assignments": "192.0.0.1",
    "NAT64 discovery": "192.0.0.170",
    "documentation 1": "192.0.2.1",
    "documentation 2": "198.51.100.1",
    "documentation 3": "203.0.113.1",
    "6to4 relay": "192.88.99.1",
    "private 192": "192.168.1.1",
    "benchmarks": "198.18.0.1",
    "benchmarks, last": "198.19.255.255",
    "multicast": "224.0.0.1",
    "multicast, last": "239.255.255.255",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "IPv6 unspecified": "::",
    "IPv6 loopback": "::1",
    "IPv4-compatible": "::7f00:1",
    "IPv4-mapped loopback": "::ffff:127.0.0.1",
    "IPv4-mapped public": f"::ffff:{PUBLIC}",
    "IPv4-translated": "::ffff:0:127.0.0.1",
    "NAT64 of metadata": "64:ff9b::169.254.169.254",
    "NAT64 of private": "64:ff9b::10.0.0.1",
    "NAT64, local": "64:ff9b:1::1",
    "discard": "100::1",
    "Teredo": "2001::1",
    "benchmarks, IPv6": "2001:2::1",
    "ORCHID": "2001:20::1",
    "documentation, IPv6": "2001:db8::1",
    "documentation, IPv6, new": "3fff::1",
    "6to4 of loopback": "2002:7f00:1::",
    "6to4 of public": "2002:5db8:d822::",
    "segment routing": "5f00::1",
    "unique local": "fc00::1",
    "AWS metadata, IPv6": "fd00:ec2::254",
    "link-local, IPv6": "fe80::1",
    "site-local": "fec0::1",
    "multicast, IPv6": "ff02::1",
}


@pytest.mark.parametrize("address", PRIVATE.values(), ids=PRIVATE.keys())
async def test_a_name_that_leads_to_what_is_not_public_is_refused(address, names, dialled):
    names["inside.test"] = [address]
    found = await failure("http://inside.test/")
    assert (found.code, found.retriable, dialled) == ("url_forbidden", False, [])
    assert address not in found.sentence


@pytest.mark.parametrize("address", PRIVATE.values(), ids=PRIVATE.keys())
async def test_such_an_address_itself_is_refused(address, dialled):
    host = f"[{address}]" if ":" in address else address
    assert ((await failure(f"http://{host}/")).code, dialled) == ("url_forbidden", [])


@pytest.mark.parametrize(
    "host",
    [
        "2130706434",  # 127.0.0.2 as one number
        "0x7f000002",
        "017700000002",
        "0x7f.0.0.2",
        "0177.0.0.2",
        "127.2",
        "127.0.2",
        "127.0.0.2.",
        "127.0.0.002",
        "127.0.0.0x2",
        "127。0。0。2",
        "１２７.0.0.2",
        "①②⑦.0.0.2",
        "%31%32%37.0.0.2",
        "134744072",  # 8.8.8.8 as one number: public, but not how anyone writes an address
        "[::1%lo]",
        "[::1%25lo]",
        "[fe80::1%lo]",
        "[0:0:0:0:0:ffff:7f00:2]",
        "[::FFFF:127.0.0.2]",
        "[127.0.0.2]",
        "[::1",
        "localhost",
        "localhost.",
        "LOCALHOST",
    ],
)
async def test_no_spelling_of_one_leads_there(host, names, dialled):
    names["localhost"] = [INSIDE, "::1"]
    found = await failure(f"http://{host}/")
    assert (found.code in {"url_invalid", "url_forbidden"}, found.retriable, dialled) == (True, False, [])


async def test_an_odd_spelling_is_refused_before_any_resolver_reads_it(names, dialled):
    names["0x7f.2"] = [PUBLIC]
    assert ((await failure("http://0x7f.2/")).code, dialled) == ("url_invalid", [])


@pytest.mark.parametrize("address", [PUBLIC, "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "223.255.255.1"])
async def test_public_addresses_are_connected_to(address, names, dialled):
    names["public.test"] = [address]
    found = await failure("http://public.test/")
    assert (found.code, found.retriable, dialled) == ("url_unreachable", True, [(address, 80)])


@pytest.mark.parametrize("address", ["2606:2800:220:1:248:1893:25c8:1946", "2001:4860:4860::8888", "64:ff9b::808:808"])
async def test_public_addresses_of_ipv6_are_connected_to(address, dialled):
    await failure(f"https://[{address}]/")
    assert dialled == [(str(ip_address(address)), 443)]


def test_nothing_that_python_calls_special_counts_as_public():
    # The first address of every /10 of IPv4 and of IPv6.
    everywhere = [
        family(n << bits - 10) for family, bits in ((IPv4Address, 32), (IPv6Address, 128)) for n in range(1_024)
    ]
    assert [a for a in everywhere if (not a.is_global or a.is_multicast or a.is_reserved) and is_public(a)] == []


async def test_a_name_with_one_address_inside_is_refused_whole(names, dialled):
    names["mixed.test"] = [PUBLIC, INSIDE]
    assert ((await failure("http://mixed.test/")).code, dialled) == ("url_forbidden", [])


@pytest.mark.parametrize("port", [22, 25, 6379, 8080])
async def test_only_the_webs_ports_are_fetched_from(port, names, dialled):
    names["public.test"] = [PUBLIC]
    assert ((await failure(f"http://public.test:{port}/")).code, dialled) == ("url_forbidden", [])


async def test_nothing_is_allowed_beside_the_web_unless_the_deployment_says_so(site, monkeypatch):
    monkeypatch.delenv("FETCH_ALLOWED_NETWORKS")
    assert (await failure_at(site)).code == "url_forbidden"
    assert site.connections == 0


async def test_an_allowed_network_opens_no_other(names, dialled):
    names["inside.test"] = [INSIDE]
    assert ((await failure("http://inside.test:8080/")).code, dialled) == ("url_forbidden", [])


async def test_a_name_that_answers_differently_the_second_time_gains_nothing(site, names):
    # One connection carries both questions, and stays where it was checked to lead.
    names["rebound.test"] = [[WEB], [INSIDE]]
    site.pages |= {"/robots.txt": answer(b"Allow: /"), "/": answer(b"the web's")}
    async with serving(INSIDE, port=site.port) as inside:
        assert (await get(site, host="rebound.test")).content == b"the web's"
        assert inside.connections == 0


async def test_a_name_is_checked_again_for_each_connection(site, names):
    names["rebound.test"] = [[WEB], [INSIDE]]
    site.pages["/robots.txt"] = answer(status=404, Connection="close")
    async with serving(INSIDE, port=site.port) as inside:
        assert (await failure_at(site, host="rebound.test")).code == "url_forbidden"
        assert (site.asked_for, inside.connections) == (["/robots.txt"], 0)


async def test_the_next_address_of_a_name_is_tried_when_one_does_not_answer(site, names, monkeypatch):
    monkeypatch.setenv("FETCH_ALLOWED_NETWORKS", '["127.0.0.0/8"]')
    names["two.test"] = ["127.0.0.3", WEB]
    site.pages["/"] = answer(b"here")
    assert (await get(site, host="two.test")).content == b"here"


async def test_a_name_with_many_addresses_does_not_make_us_knock_at_all_of_them(names, dialled):
    names["many.test"] = [f"93.184.216.{n}" for n in range(200)]
    await failure("http://many.test/")
    assert dialled == [(address, 80) for address in names["many.test"][:4]]


async def test_a_name_that_nobody_has_is_told_as_such(dialled):
    found = await failure("https://nobody.test/")
    assert (found.code, found.retriable) == ("url_unreachable", False)
    assert "nobody.test" in found.sentence


async def test_a_resolver_that_cannot_say_may_be_able_to_later(monkeypatch):
    def cannot(*_, **__):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", cannot)
    found = await failure("https://site.test/")
    assert (found.code, found.retriable) == ("url_unreachable", True)


async def test_a_site_where_nothing_listens_may_come_back(site):
    async with serving() as gone:
        pass
    found = await failure_at(gone)
    assert (found.code, found.retriable) == ("url_unreachable", True)


async def test_proxies_of_the_environment_are_not_used(site, monkeypatch):
    site.pages["/"] = answer(b"here")
    async with serving() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{WEB}:{proxy.port}")
            monkeypatch.setenv(name.lower(), f"http://{WEB}:{proxy.port}")
        assert (await get(site)).content == b"here"
        assert proxy.connections == 0


# Redirects


@pytest.mark.parametrize(
    ("target", "code"),
    [
        pytest.param("http://127.0.0.2:{port}/", "url_forbidden", id="loopback"),
        pytest.param("http://inside.test:{port}/", "url_forbidden", id="a name that leads there"),
        pytest.param("//127.0.0.2:{port}/", "url_forbidden", id="without a scheme"),
        pytest.param("file:///etc/passwd", "url_forbidden", id="file"),
        pytest.param("http://ada:secret@site.test:{port}/", "url_invalid", id="with credentials"),
        pytest.param("http://[::1/", "url_invalid", id="malformed"),
        pytest.param("/" + "a" * 2_048, "url_invalid", id="too long"),
    ],
)
async def test_a_redirect_is_checked_as_the_address_was(site, names, target, code):
    names["inside.test"] = [INSIDE]
    site.pages["/"] = to(target.format(port=site.port))
    async with serving(INSIDE, port=site.port) as inside:
        assert (await failure_at(site)).code == code
        assert inside.connections == 0
    assert site.asked_for == ["/robots.txt", "/"]


async def test_five_redirects_are_followed_and_six_are_not(site):
    site.pages |= {f"/{n}": to(f"/{n - 1}") for n in range(1, 7)}
    site.pages["/0"] = answer(b"here")
    assert (await get(site, "/5")).content == b"here"
    found = await failure_at(site, "/6")
    assert (found.code, found.retriable) == ("url_refused", False)


async def test_a_redirect_to_itself_ends(site):
    site.pages["/"] = to("/")
    assert (await failure_at(site)).code == "url_refused"
    assert site.asked_for == ["/robots.txt"] + ["/"] * 6


async def test_a_page_that_is_there_leads_nowhere_else(site):
    site.pages["/"] = answer(b"here", location="/elsewhere")
    assert (await get(site)).content == b"here"


async def test_a_redirect_to_nowhere_is_no_page(site):
    site.pages["/"] = answer(b"moved", status=302)
    assert (await failure_at(site)).code == "url_refused"


# TLS


def certify(folder, name):
    """A certificate that vouches for itself, under that name; returns the server's side of TLS and its file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, path


async def test_a_site_proves_its_name_over_tls_at_the_address_that_was_checked(tmp_path, monkeypatch):
    tls, path = certify(tmp_path, "site.test")
    asked_as: list[str] = []
    tls.sni_callback = lambda _, name, __: asked_as.append(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    async with serving(tls=tls) as secure:
        secure.pages["/"] = answer(b"here")
        assert (await fetch(f"https://site.test:{secure.port}/", max_bytes=MAX_BYTES)).content == b"here"
    assert set(asked_as) == {"site.test"}


@pytest.mark.parametrize(
    ("name", "trusted"),
    [pytest.param("other.test", True, id="another's"), pytest.param("site.test", False, id="nobody vouches for it")],
)
async def test_a_certificate_that_proves_nothing_ends_it_before_anything_is_asked(tmp_path, monkeypatch, name, trusted):
    tls, path = certify(tmp_path, name)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
    async with serving(tls=tls) as secure:
        found = await failure(f"https://site.test:{secure.port}/")
        assert (found.code, found.retriable) == ("url_unreachable", False)
        assert "certificate" in found.sentence
        assert secure.heads == []


async def test_a_redirect_from_https_to_http_is_refused(site, tmp_path, monkeypatch):
    tls, path = certify(tmp_path, "site.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    async with serving(tls=tls) as secure:
        secure.pages["/"] = to(f"http://site.test:{site.port}/")
        assert (await failure(f"https://site.test:{secure.port}/")).code == "url_forbidden"
    assert site.connections == 0


# Limits


async def test_a_file_may_be_as_large_as_allowed_and_no_larger(site):
    site.pages |= {"/all": answer(b"a" * 1_000), "/more": answer(b"a" * 1_001)}
    assert len((await get(site, "/all", max_bytes=1_000)).content) == 1_000
    found = await failure_at(site, "/more", max_bytes=1_000)
    assert (found.code, found.retriable) == ("too_large", False)
    assert "1,000 bytes" in found.sentence


async def test_a_body_without_end_is_left(site):
    async def endless(writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await go_on(writer, b"a" * 65_536)

    site.pages["/"] = endless
    assert (await failure_at(site)).code == "too_large"


async def test_a_gzip_bomb_is_not_unpacked(site):
    # 100 MB of nothing in 100 kB: a buffer's worth of it would already be some 60 MB.
    pack = zlib.compressobj(wbits=31)
    bomb = b"".join([*(pack.compress(bytes(10_000_000)) for _ in range(10)), pack.flush()])
    site.pages["/"] = answer(bomb, content_encoding="gzip")
    tracemalloc.start()
    try:
        found = await failure_at(site, max_bytes=MAX_BYTES)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.code == "too_large"
    assert peak < 10 * MAX_BYTES


async def test_what_follows_the_packed_page_is_not_read(site):
    async def trailing(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"here"))
        await go_on(writer, b"a" * 65_536)

    site.pages["/"] = trailing
    assert (await get(site)).content == b"here"


@pytest.mark.parametrize("packed", [b"", b"not gzip at all", gzip.compress(b"here")[:-9]])
async def test_a_packed_page_that_is_damaged_is_no_page(site, packed):
    site.pages["/"] = answer(packed, content_encoding="gzip")
    found = await failure_at(site)
    assert (found.code, found.retriable) == ("url_unreachable", True)


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip"])
async def test_what_is_packed_as_nobody_asked_is_refused(site, encoding):
    site.pages["/"] = answer(b"...", content_encoding=encoding)
    assert (await failure_at(site)).code == "url_refused"


async def test_a_body_that_drips_ends_with_the_time_for_all_of_it(site, monkeypatch):
    monkeypatch.setenv("FETCH_SECONDS", "0.2")

    async def drip(writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await go_on(writer, b"a")

    site.pages["/"] = drip
    assert (await failure_at(site)).code == "took_too_long"


async def test_a_head_that_drips_ends_with_the_time_for_a_head(site, monkeypatch):
    monkeypatch.setenv("FETCH_SILENCE_SECONDS", "0.2")

    async def drip(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        await go_on(writer, b"a")
        writer.write(b"\r\n\r\n")

    site.pages["/"] = drip
    found = await failure_at(site)
    assert (found.code, found.retriable) == ("url_unreachable", True)


async def test_a_site_that_falls_silent_is_left(site, monkeypatch):
    monkeypatch.setenv("FETCH_SILENCE_SECONDS", "0.2")

    async def fall_silent(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nHe")
        await asyncio.Event().wait()

    site.pages["/"] = fall_silent
    found = await failure_at(site)
    assert (found.code, found.retriable) == ("url_unreachable", True)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"220 smtp ready\r\n\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nHe", id="half a page"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000, id="a head without end"),
    ],
)
async def test_a_site_that_makes_no_sense_may_do_so_later(site, said):
    async def say(writer):
        writer.write(said)
        await writer.drain()

    site.pages["/"] = say
    found = await failure_at(site)
    assert (found.code, found.retriable) == ("url_unreachable", True)


@pytest.mark.parametrize(
    ("status", "code", "retriable"),
    [
        (204, "url_refused", False),
        (206, "url_refused", False),
        (400, "url_refused", False),
        (401, "url_refused", False),
        (403, "url_refused", False),
        (404, "url_refused", False),
        (410, "url_refused", False),
        (408, "url_unreachable", True),
        (429, "url_unreachable", True),
        (500, "url_unreachable", True),
        (503, "url_unreachable", True),
    ],
)
async def test_a_status_says_whether_trying_again_makes_sense(site, status, code, retriable):
    site.pages["/"] = answer(status=status)
    found = await failure_at(site)
    assert (found.code, found.retriable) == (code, retriable)
    assert f"({status})" in found.sentence


# robots.txt


def rules(text, **headers):
    return answer(text.encode(), content_type="text/plain", **headers)


ALL_CLOSED = rules("User-agent: *\nDisallow: /\n")


async def test_what_the_site_closes_to_programs_is_not_asked_for(site):
    site.pages |= {"/robots.txt": rules("User-agent: *\nDisallow: /private\n"), "/open": answer(b"here")}
    assert (await get(site, "/open")).content == b"here"
    found = await failure_at(site, "/private/page")
    assert (found.code, found.retriable) == ("url_robots", False)
    assert "/private/page" not in site.asked_for


async def test_rules_for_us_go_before_those_for_all(site):
    site.pages |= {
        "/robots.txt": rules("User-agent: *\nDisallow: /\n\nUser-agent: AgentKit-Functions\nDisallow: /private\n"),
        "/open": answer(b"here"),
    }
    assert (await get(site, "/open")).content == b"here"
    assert (await failure_at(site, "/private")).code == "url_robots"


async def test_a_deployment_is_known_by_its_own_name(site, monkeypatch):
    monkeypatch.setenv("FETCH_USER_AGENT", "Ours/2.0 (AgentKit-Functions)")
    site.pages["/robots.txt"] = rules("User-agent: ours\nDisallow: /\n")
    assert (await failure_at(site)).code == "url_robots"


async def test_each_site_that_a_redirect_leads_to_is_asked(site):
    async with serving() as closed:
        closed.pages |= {"/robots.txt": ALL_CLOSED, "/": answer(b"here")}
        site.pages["/"] = to(f"http://other.test:{closed.port}/")
        assert (await failure_at(site)).code == "url_robots"
        assert closed.asked_for == ["/robots.txt"]


async def test_a_site_is_asked_once(site):
    site.pages |= {"/a": to("/b"), "/b": to("/c"), "/c": answer(b"here")}
    await get(site, "/a")
    assert site.asked_for == ["/robots.txt", "/a", "/b", "/c"]


async def test_rules_may_be_elsewhere(site):
    site.pages |= {"/robots.txt": to("/rules"), "/rules": ALL_CLOSED}
    assert (await failure_at(site)).code == "url_robots"


async def test_rules_are_not_fetched_from_the_inside(site):
    site.pages["/robots.txt"] = to(f"http://{INSIDE}:{site.port}/robots.txt")
    async with serving(INSIDE, port=site.port) as inside:
        assert (await failure_at(site)).code == "url_forbidden"
        assert inside.connections == 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429])
async def test_a_site_without_rules_may_be_fetched_from(site, status):
    site.pages |= {"/robots.txt": answer(b"User-agent: *\nDisallow: /", status=status), "/": answer(b"here")}
    assert (await get(site)).content == b"here"


@pytest.mark.parametrize("status", [500, 503])
async def test_a_site_that_cannot_say_its_rules_is_left_alone_for_now(site, status):
    site.pages |= {"/robots.txt": answer(status=status), "/": answer(b"here")}
    found = await failure_at(site)
    assert (found.code, found.retriable) == ("url_unreachable", True)
    assert site.asked_for == ["/robots.txt"]


async def test_so_is_one_whose_rules_do_not_arrive(site):
    async def hang_up(writer):
        return

    site.pages |= {"/robots.txt": hang_up, "/": answer(b"here")}
    found = await failure_at(site)
    assert (found.code, found.retriable) == ("url_unreachable", True)


async def test_rules_without_end_hold_as_far_as_they_are_read(site):
    async def endless(writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nUser-agent: *\nDisallow: /private\n")
        for number in itertools.count():
            writer.write(b"# nothing\n" * 1_000)
            await writer.drain()
            await asyncio.sleep(0)
            assert number < 10_000

    site.pages |= {"/robots.txt": endless, "/open": answer(b"here")}
    assert (await get(site, "/open")).content == b"here"
    assert (await failure_at(site, "/private")).code == "url_robots"


async def test_a_rule_that_is_cut_off_does_not_count(site):
    start = "User-agent: *\n"
    cut = "Disallow: /"
    filling = "#" * (robots.MAX_BYTES - len(start) - len(cut) - 1) + "\n"
    site.pages |= {"/robots.txt": rules(start + filling + cut + "private\n"), "/open": answer(b"here")}
    assert (await get(site, "/open")).content == b"here"


@pytest.mark.parametrize(
    "named",
    [
        "User-agent: {}",
        "user-agent:{}/1.0",
        "User agent: {}",
        "useragent {}",
        " USER-AGENT {} # a crawler",
        "User\tagent {}",
    ],
)
async def test_rules_for_us_are_found_however_they_name_us(site, named):
    others, ours = named.format("Other-Bot"), named.format("agentkit-functions")
    site.pages |= {
        "/robots.txt": rules(f"{others}\nDisallow: /\n\n{others}\n{ours}\nDisallow: /private\n"),
        "/open": answer(b"here"),
    }
    assert (await get(site, "/open")).content == b"here"
    assert (await failure_at(site, "/private")).code == "url_robots"


@pytest.mark.parametrize("named", ["User-agent:", "useragent", "User agent", "user\tagent", "\u2003User-Agent :"])
async def test_rules_made_to_fill_the_memory_do_not(site, named):
    # 1,000 names with 2,000 rules each, kept one by one, are 2 million: some 140 MB.
    names = "".join(f"{named} {number}\n" for number in range(1_000))
    site.pages |= {
        "/robots.txt": rules(names + "".join(f"Disallow: /{number}\n" for number in range(2_000))),
        "/open": answer(b"here"),
    }
    tracemalloc.start()
    try:
        assert (await get(site, "/open")).content == b"here"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000
