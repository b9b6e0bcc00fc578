"""A request whose path is no UTF-8 ends a server of grpc.aio: ours serves on."""

import asyncio
import ssl
import struct

import grpc
import pytest

from mesh.identity import CertificateAuthority
from mesh.identity.server_tls import ServerTls
from mesh.model import SpiffeId
from mesh.rpc import ServerSettings, open_server, open_target
from mesh.telemetry import configure_logs


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def literal(name, value):
    """A header field without Huffman coding or index (RFC 7541, section 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def unreadable_request():
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/test.v1.Test/\xff\xfe",
        b":authority": b"test",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    headers = b"".join(literal(name, value) for name, value in fields.items())
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 5, 1, headers)


async def say_something_unreadable(listen):
    if listen.startswith("unix:"):
        _, writer = await asyncio.open_unix_connection(listen.removeprefix("unix:"))
    else:
        host, _, port = listen.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
    writer.write(unreadable_request())
    await writer.drain()
    return writer


async def wait_served(call):
    async with asyncio.timeout(10):
        while True:
            try:
                return await call(b"x", timeout=2)
            except grpc.aio.AioRpcError as err:
                assert err.code() is grpc.StatusCode.UNAVAILABLE
                await asyncio.sleep(0.05)


@pytest.fixture(params=["tcp", "unix"])
def listen(request, short_dir):
    return "127.0.0.1:0" if request.param == "tcp" else f"unix:{short_dir}/s"


async def test_the_server_serves_on_at_the_same_place_and_ends_no_call(listen, handlers, capfd):
    configure_logs("test")
    said = ""
    settings = ServerSettings("test", listen, drain_grace=1.0)
    async with open_server(settings, [], generic_handlers=[handlers.generic()]) as server:
        address = listen if listen.startswith("unix:") else f"127.0.0.1:{server.port}"
        async with open_target(address) as channel:
            stream = channel.stream_stream("/test.v1.Test/BothStream")()
            await stream.write(b"1")
            assert await stream.read() == b"1"
            for times in (1, 2):
                writer = await say_something_unreadable(address)
                async with asyncio.timeout(10):
                    while said.count('"server_given_up"') < times:
                        said += capfd.readouterr().err
                        await asyncio.sleep(0.02)
                async with open_target(address) as another:
                    assert await wait_served(another.unary_unary("/test.v1.Test/Unary")) == b"x"
                if times == 1:
                    await stream.write(b"2")
                    assert await stream.read() == b"2"
                writer.close()
            stream.cancel()


async def test_a_server_with_a_certificate_that_it_fetches_serves_on(short_dir, handlers, capfd):
    configure_logs("test")
    authority = CertificateAuthority.open(short_dir / "ca", trust_domain="mesh.test")
    identity = SpiffeId("mesh.test", "default", "control-plane")
    tls = ServerTls(authority, identity, require_client_certificate=False)
    settings = ServerSettings("test", "127.0.0.1:0", credentials=tls.credentials, drain_grace=0.2)
    trust = ssl.create_default_context(cadata=authority.bundle_pem)
    trust.set_alpn_protocols(["h2"])
    credentials = grpc.ssl_channel_credentials(authority.bundle_pem.encode())
    async with open_server(settings, [], generic_handlers=[handlers.generic()]) as server:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=trust, server_hostname="control-plane.mesh"
        )
        writer.write(unreadable_request())
        await writer.drain()
        said = ""
        async with asyncio.timeout(10):
            while '"server_given_up"' not in said:
                said += capfd.readouterr().err
                await asyncio.sleep(0.02)
        target = f"127.0.0.1:{server.port}"
        async with open_target(target, credentials=credentials, authority="control-plane.mesh") as channel:
            assert await wait_served(channel.unary_unary("/test.v1.Test/Unary")) == b"x"
        writer.close()
