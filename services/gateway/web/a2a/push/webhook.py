"""Sends notifications to addresses that clients have named: never into networks that are not public.

A name is looked up once, and what is called is the address that was looked at: a name that leads somewhere else a
moment later leads nowhere.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit, urlunsplit

import httpx
from a2a.types import a2a_pb2 as a2a
from google.protobuf.json_format import MessageToJson

from mesh.errors import InvalidInput, Unavailable

_TIMEOUT = 10.0
_LOOKUP = 5.0
_MEDIA_TYPE = "application/a2a+json"
_RETRIED = (408, 425, 429, 500, 502, 503, 504)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host; raises OSError for none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in found]


class Webhook:
    """Sends to public addresses by https, and to those in `networks` also by http."""

    def __init__(self, networks: Sequence[Network] = (), *, resolve: Resolve = resolve) -> None:
        self._networks = tuple(networks)
        self._resolve = resolve

    async def check(self, url: str) -> str:
        """An address that may be called for a URL; raises InvalidInput when there is none."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            raise _refused("It is no URL of http or https without a user in it.")
        try:
            async with asyncio.timeout(_LOOKUP):
                found = await self._resolve(host, port or (443 if parts.scheme == "https" else 80))
        except (OSError, UnicodeError) as err:
            raise _refused(f"The host {host[:80]!r} cannot be found.") from err
        addresses = [_parse(text) for text in found]
        is_own = [any(address in network for network in self._networks) for address in addresses]
        if not addresses or not all(own or _is_public(it) for own, it in zip(is_own, addresses, strict=True)):
            raise _refused("It leads into a network that is not public.")
        if parts.scheme != "https" and not all(is_own):
            raise _refused("Notifications go by https only.")
        return str(addresses[0])

    async def send(self, config: a2a.TaskPushNotificationConfig, event: a2a.StreamResponse) -> None:
        """Tell one event. Raises Unavailable when it may be tried again, InvalidInput when that makes no sense."""
        address = await self.check(config.url)
        parts = urlsplit(config.url)
        host = f"[{address}]" if ":" in address else address
        url = urlunsplit(parts._replace(netloc=f"{host}:{parts.port}" if parts.port else host))
        headers = {"host": parts.netloc, "content-type": _MEDIA_TYPE}
        if config.token:
            headers["x-a2a-notification-token"] = config.token
        if config.authentication.scheme and config.authentication.credentials:
            headers["authorization"] = f"{config.authentication.scheme} {config.authentication.credentials}"
        extensions = {"sni_hostname": parts.hostname} if parts.scheme == "https" else {}
        try:
            # One for each: what is kept open is kept open at somebody else's cost.
            async with (
                asyncio.timeout(_TIMEOUT),
                httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=_TIMEOUT) as client,
                client.stream(
                    "POST", url, content=MessageToJson(event, indent=None), headers=headers, extensions=extensions
                ) as response,
            ):
                status = response.status_code
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as err:
            raise Unavailable("The webhook does not answer.", reason="WEBHOOK_AWAY") from err
        if status in _RETRIED:
            raise Unavailable(f"The webhook answers {status}.", reason="WEBHOOK_AWAY")
        if not 200 <= status < 300:
            raise InvalidInput(f"The webhook answers {status}.", reason="WEBHOOK_REFUSES")


def _parse(text: str) -> Address:
    address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_public(address: Address) -> bool:
    inside = [address]
    if isinstance(address, IPv6Address):
        # Ways to write an address of the other kind, which a router on the way may take out.
        inside += [it for it in (address.sixtofour, *(address.teredo or ())) if it is not None]
        if address in _NAT64:
            inside.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return all(it.is_global and not it.is_multicast and not it.is_reserved for it in inside)


_NAT64 = IPv6Network("64:ff9b::/96")


def _refused(why: str) -> InvalidInput:
    return InvalidInput(
        why,
        reason="PUSH_URL_REFUSED",
        field="url",
        fix="Name a public address by https, or have the operator allow its network in MESH_A2A_PUSH_NETWORKS.",
    )
