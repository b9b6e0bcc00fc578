"""Where notifications may go."""

from ipaddress import ip_network

import pytest

from mesh.errors import InvalidInput
from services.gateway.web.a2a.push.webhook import Webhook

PUBLIC = "93.184.215.14"


def webhook(*addresses, networks=()):
    async def resolve(host, port):
        return addresses

    return Webhook([ip_network(text) for text in networks], resolve=resolve)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
    ],
)
async def test_nothing_goes_into_networks_that_are_not_public(address):
    with pytest.raises(InvalidInput, match="not public"):
        await webhook(address).check("https://example.org/hook")


async def test_one_private_address_among_public_ones_is_one_too_many():
    with pytest.raises(InvalidInput):
        await webhook(PUBLIC, "10.0.0.1").check("https://example.org/")


@pytest.mark.parametrize(
    "url", ["http://example.org/", "ftp://example.org/", "https://", "https://u:p@example.org/", "https://[x/", "x", ""]
)
async def test_only_https_without_a_user_will_do(url):
    with pytest.raises(InvalidInput):
        await webhook(PUBLIC).check(url)


async def test_a_public_address_and_an_allowed_network_will_do():
    assert await webhook(PUBLIC).check("https://example.org/hook") == PUBLIC
    assert await webhook("10.0.0.1", networks=["10.0.0.0/8"]).check("http://inside.example/") == "10.0.0.1"


async def test_a_host_that_is_not_found_is_refused():
    async def resolve(host, port):
        raise OSError("no such host")

    with pytest.raises(InvalidInput, match="cannot be found"):
        await Webhook(resolve=resolve).check("https://nowhere.example/")
