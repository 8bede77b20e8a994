"""Connections to the public internet only, whatever name leads elsewhere.

Someone else chooses the web addresses that we fetch, and may choose one of ours: a database, the cloud's metadata
service. So a name is resolved here, every address that it has must be public, and the connection goes to one of the
addresses that were checked: a name that answers differently the next time gains nothing. It is done where connections
are opened, beneath redirects, retries and keep-alive, so that none of them goes round it.

What is public follows https://www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry, in
our own words rather than `ipaddress`'s: those differ between Python's versions.
"""

import asyncio
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import httpcore

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

WEB_PORTS = (80, 443)
# Whoever owns a name may give it a thousand addresses, all of them other people's.
MAX_TRIED = 4

NOT_PUBLIC_IPV4 = [
    IPv4Network("0.0.0.0/8"),  # this network
    IPv4Network("10.0.0.0/8"),  # private
    IPv4Network("100.64.0.0/10"),  # behind a carrier's NAT
    IPv4Network("127.0.0.0/8"),  # loopback
    IPv4Network("169.254.0.0/16"),  # link-local: the cloud's metadata among them
    IPv4Network("172.16.0.0/12"),  # private
    IPv4Network("192.0.0.0/24"),  # protocol assignments
    IPv4Network("192.0.2.0/24"),  # documentation
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv4Network("192.168.0.0/16"),  # private
    IPv4Network("198.18.0.0/15"),  # benchmarks
    IPv4Network("198.51.100.0/24"),  # documentation
    IPv4Network("203.0.113.0/24"),  # documentation
    IPv4Network("224.0.0.0/4"),  # multicast
    IPv4Network("240.0.0.0/4"),  # reserved, broadcast
]
# The one part of IPv6 that is given out; all else is special (`::1`, `::ffff:…`, `fd00:ec2::254`, `fe80::…`, `ff02::…`)
# or nobody's.
PUBLIC_IPV6 = IPv6Network("2000::/3")
NOT_PUBLIC_IPV6 = [
    IPv6Network("2001::/23"),  # protocol assignments: Teredo, ORCHID, benchmarks
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("2002::/16"),  # 6to4: carries an IPv4 address
    IPv6Network("3fff::/20"),  # documentation
]
# IPv4 for those who have only IPv6: as public as the address in its last 32 bits (RFC 6052).
NAT64 = IPv6Network("64:ff9b::/96")


class NotPublic(Exception):  # noqa: N818  # reads as what it says
    """Where the name leads is not for us to go; the sentence is for whoever gave it, and names no address."""


class NoSuchName(Exception):  # noqa: N818  # reads as what it says
    """Nothing has that name."""


def is_public(address: Address) -> bool:
    """Whether the address is somebody's on the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in NOT_PUBLIC_IPV4)
    if address in NAT64:
        return is_public(IPv4Address(address.packed[-4:]))
    return address in PUBLIC_IPV6 and not any(address in network for network in NOT_PUBLIC_IPV6)


class PublicInternet(httpcore.AsyncNetworkBackend):
    """Opens connections for httpcore: to public addresses at the web's ports, and to what else was allowed.

    Raises NotPublic and NoSuchName beside httpcore's own exceptions.
    """

    def __init__(self, *, allowed: Sequence[Network] = ()) -> None:
        self._allowed = allowed
        """Networks to which it may connect as well, at any port."""
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the interface's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to one of the name's addresses, the first of a few that answers, having checked all of them."""
        addresses = await _resolved(host, port)
        for address in addresses:
            self._check(address, port)
        # An address that swallows everything (IPv6 without a route, often) leaves the others their share of the time.
        tried = addresses[:MAX_TRIED]
        share = timeout and timeout / len(tried)
        failure: Exception = httpcore.ConnectError("a name without addresses")
        for address in tried:
            try:
                return await self._sockets.connect_tcp(str(address), port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def _check(self, address: Address, port: int) -> None:
        if any(address in network for network in self._allowed):
            return
        if not is_public(address):
            raise NotPublic("The address is not on the public internet.")
        if port not in WEB_PORTS:
            raise NotPublic("The address has a port that is not the web's own: only 80 and 443 are fetched from.")


async def _resolved(host: str, port: int) -> list[Address]:
    """Return the name's addresses, the best first; an address is its own."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in {socket.EAI_NONAME, socket.EAI_NODATA}:
            raise NoSuchName from error
        raise httpcore.ConnectError from error
    return list(dict.fromkeys(ip_address(sockaddr[0]) for *_, sockaddr in found))
