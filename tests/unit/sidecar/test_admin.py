import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mesh.errors import Unavailable
from mesh.sidecar import admin
from mesh.sidecar.admin import EnvoyAdmin, Traffic, open_admin

OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
STATS = b"""http.edge.downstream_cx_tx_bytes_buffered: 7
http.edge.downstream_rq_active: 1
http.edge.downstream_rq_total: 40
http.inbound.downstream_cx_tx_bytes_buffered: 0
http.inbound.downstream_rq_active: 2
http.inbound.downstream_rq_total: 2
"""


@asynccontextmanager
async def answering(path: Path, answer: bytes, *, hangs: bool = False) -> AsyncIterator[tuple[EnvoyAdmin, list[str]]]:
    """An admin client of something that gives the same answer to each connection; with the first lines that it got."""
    asked: list[str] = []
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            asked.append((await reader.readline()).decode(errors="replace").strip())
            writer.write(answer)
            if hangs:
                await done.wait()
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        async with open_admin(path) as client:
            yield client, asked
    finally:
        done.set()
        server.close()


def ok(text: bytes) -> bytes:
    return OK % (len(text), text)


async def test_traffic_is_summed_over_the_listeners(short_dir: Path) -> None:
    async with answering(short_dir / "s", ok(STATS)) as (client, asked):
        traffic = await client.read_traffic(("inbound", "edge"))
    assert traffic == Traffic(active=3, buffered=7, total=42)
    assert not traffic.is_quiet
    assert asked[0].startswith("GET /stats?filter=")


async def test_listeners_that_there_are_not_are_quiet(short_dir: Path) -> None:
    async with answering(short_dir / "s", ok(b"")) as (client, _):
        assert (await client.read_traffic(("inbound",))).is_quiet


async def test_a_slow_reader_is_not_quiet() -> None:
    assert not Traffic(active=0, buffered=1, total=5).is_quiet


GARBAGE = {
    "not HTTP": b"\x00\xff\x17 garbage\r\n\r\n",
    "nothing": b"",
    "an error": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy",
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhttp.in",
}


@pytest.mark.parametrize("answer", [*GARBAGE.values(), ok(b"<html>"), ok(b"a: b"), ok(b"\xff\xfe"), ok(b"x.y: 1")])
async def test_garbage_is_unavailable_and_no_other_error(short_dir: Path, answer: bytes) -> None:
    async with answering(short_dir / "s", answer) as (client, _):
        with pytest.raises(Unavailable):
            await client.read_traffic(("inbound",))


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
async def test_what_answers_garbage_is_not_live_and_cannot_be_drained(short_dir: Path, answer: bytes) -> None:
    async with answering(short_dir / "s", answer) as (client, _):
        if answer != GARBAGE["half an answer"]:
            assert not await client.is_live()
        with pytest.raises(Unavailable):
            await client.drain()


async def test_an_error_of_envoy_is_told(short_dir: Path) -> None:
    async with answering(short_dir / "s", GARBAGE["an error"]) as (client, _):
        with pytest.raises(Unavailable, match="503 to POST /healthcheck/fail: busy"):
            await client.drain()


async def test_drain_closes_inbound_listeners_only(short_dir: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    async with answering(short_dir / "s", answer) as (client, asked):
        await client.drain()
    assert asked == ["POST /healthcheck/fail HTTP/1.1", "POST /drain_listeners?inboundonly HTTP/1.1"]


async def test_nobody_there_is_not_live(short_dir: Path) -> None:
    async with open_admin(short_dir / "nobody") as client:
        assert not await client.is_live()
        with pytest.raises(Unavailable, match="does not answer"):
            await client.drain()


async def test_what_hangs_is_given_up(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_TIMEOUT", admin.aiohttp.ClientTimeout(total=0.05))
    async with answering(short_dir / "s", b"HTTP/1.1 200 OK\r\n", hangs=True) as (client, _):
        assert not await client.is_live()
        with pytest.raises(Unavailable, match="TimeoutError"):
            await client.read_traffic(("inbound",))
