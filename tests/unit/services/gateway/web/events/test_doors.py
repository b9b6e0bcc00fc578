"""/events and /ws on a socket, as the own Envoy reaches them."""

import asyncio
import base64
import contextlib
import json

import aiohttp
import pytest

from services.gateway.web.events import Times, event_routes, follow_access
from services.gateway.web.events import hub as hub_module
from services.gateway.web.server import build_app, open_web

ORIGIN = "https://app.example.org"


def as_key():
    payload = base64.urlsafe_b64encode(json.dumps({"kind": "key", "name": "k"}).encode()).rstrip(b"=").decode()
    return {"x-mesh-user": f"h.{payload}.s"}


@pytest.fixture
def serving(knowledge, hub, short_dir):
    """Serve the doors; gives a session."""

    @contextlib.asynccontextmanager
    async def serving(**times):
        routes = event_routes(knowledge, hub, Times(**times))
        path = f"{short_dir}/web.sock"
        timeout = aiohttp.ClientTimeout(total=10)
        async with asyncio.timeout(20), open_web(f"unix:{path}", build_app(routes)):
            connector = aiohttp.UnixConnector(path)
            async with aiohttp.ClientSession("http://edge", connector=connector, timeout=timeout) as session:
                yield session

    return serving


async def blocks(response):
    """The blocks of a stream as dicts; lines of comments under ""."""
    block = {}
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if text:
            name, _, value = text.partition(":")
            block[name] = value.strip()
        else:
            yield block
            block = {}


async def next_event(stream):
    while "data" not in (block := await anext(stream)):
        pass
    assert json.loads(block["data"]).get("id", "") == block.get("id", "")
    return block


async def test_events_are_streamed_with_id_type_and_data(hub, serving):
    async with serving() as session, session.get("/events") as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        stream = blocks(response)
        assert 1000 <= int((await anext(stream))["retry"]) <= 3000
        assert await anext(stream) == {"id": "abc-0"}
        made = hub.publish("service.added", "a\n\ndata: forged", {"text": "ä\n"})
        block = await next_event(stream)
        assert (block["id"], block["event"]) == ("abc-1", "service.added")
        assert json.loads(block["data"]) == made.to_json()


async def test_a_stream_goes_on_after_the_event_that_was_read_last(hub, serving):
    first, second, third = (hub.publish("service.added", name, {}) for name in "abc")
    async with serving() as session:
        for how in ({"headers": {"Last-Event-ID": first.id}}, {"params": {"last_event_id": first.id}}):
            async with session.get("/events", **how) as response:
                stream = blocks(response)
                assert [(await next_event(stream))["id"] for _ in range(2)] == [second.id, third.id]
        async with session.get("/events", headers={"Last-Event-ID": "other-1"}) as response:
            stream = blocks(response)
            assert (await next_event(stream))["event"] == "reset"
            snapshot = await next_event(stream)
            assert (snapshot["event"], snapshot["id"]) == ("snapshot", third.id)


async def test_a_silent_stream_says_that_it_lives_and_from_where_to_go_on(hub, serving):
    async with serving(heartbeat=0.01) as session, session.get("/events?types=task.changed") as response:
        stream = blocks(response)
        hub.publish("service.added", "a", {})
        while (await anext(stream)) != {"": "alive", "id": "abc-1"}:
            pass


WRONG_FILTERS = (
    ("types=unheard.of", "types"),
    ("services=No+Name", "services"),
    ("services=" + "a," * 101, "services"),
)


async def test_filters_that_fit_nothing_are_refused(serving):
    async with serving() as session:
        for query, field in WRONG_FILTERS:
            async with session.get(f"/events?{query}") as response:
                assert response.status == 400
                assert (await response.json(content_type="application/problem+json"))["field"] == field
            async with session.ws_connect(f"/ws?{query}") as socket:
                message = await socket.receive()
                assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1008)


async def test_filters_hold_on_both_doors(hub, serving):
    async with serving() as session:
        query = "types=service.added,service.removed&types=task.changed&services=b"
        async with session.get(f"/events?{query}") as response, session.ws_connect(f"/ws?{query}") as socket:
            stream = blocks(response)
            assert (await socket.receive_json())["type"] == "ready"
            while await anext(stream) != {"id": "abc-0"}:
                pass
            for kind in ("service.changed", "service.added"):
                for name in "ab":
                    made = hub.publish(kind, name, {})
            assert (await next_event(stream))["id"] == made.id
            assert await socket.receive_json() == made.to_json()


async def test_one_too_many_is_told_to_come_later(serving, monkeypatch):
    monkeypatch.setattr(hub_module, "MOST_READERS", 0)
    async with serving() as session:
        async with session.get("/events") as response:
            assert response.status == 503
            assert int(response.headers["retry-after"]) > 0
            assert (await response.json(content_type="application/problem+json"))["reason"] == "TOO_MANY_READERS"
        async with session.ws_connect("/ws") as socket:
            message = await socket.receive()
            assert (message.data, message.extra.split(":")[0]) == (1013, "TOO_MANY_READERS")


async def test_who_leaves_gives_its_place_back(hub, serving):
    async with serving() as session:
        async with session.get("/events") as response, session.ws_connect("/ws") as socket:
            await anext(blocks(response))
            await socket.receive_json()
            assert hub.readers == 2
            response.close()
            await socket.close()
        async with asyncio.timeout(5):
            await hub.close(5)
        assert hub.readers == 0


async def test_a_head_request_is_answered_at_once(serving):
    async with serving() as session, session.head("/events") as response:
        assert (response.status, await response.read()) == (200, b"")


async def stuck(path, request):
    """A connection that asks and does not read."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1024)
    writer.write(request)
    await writer.drain()
    while await reader.readline() not in (b"\r\n", b""):
        pass
    return reader, writer


SSE = b"GET /events HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n"
SOCKET = (
    b"GET /ws HTTP/1.1\r\nhost: edge\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.mark.parametrize("request_", [SSE, SOCKET], ids=["events", "ws"])
async def test_who_does_not_read_is_dropped_and_its_place_is_free(hub, serving, short_dir, request_):
    async with serving(send=0.05) as session, session.get("/events") as response:
        await anext(blocks(response))
        _, writer = await stuck(f"{short_dir}/web.sock", request_)
        while hub.readers < 2:
            await asyncio.sleep(0.001)
        stream, got = blocks(response), 0
        while hub.readers == 2:
            hub.publish("service.changed", "a", {"text": "x" * 16384})
            await next_event(stream)
            got += 1
        assert hub.dropped == 1
        assert got < 1000
        writer.close()


async def test_a_slow_reader_that_reads_on_is_told_why_it_was_dropped(hub, serving, short_dir):
    async with serving() as _:
        reader, writer = await stuck(f"{short_dir}/web.sock", SSE)
        while not hub.dropped:
            hub.publish("service.changed", "a", {"text": "x" * 1024})
            await asyncio.sleep(0)
        rest = (await reader.read(-1)).decode()
        assert '"reason":"SLOW_CONSUMER"' in rest.rpartition("event: dropped\ndata: ")[2]
        await hub.close(5.0)
        assert hub.readers == 0
        writer.close()


async def test_a_stream_ends_when_its_key_is_revoked(knowledge, hub, access, serving):
    knowledge.set_access(access(key={"roles": ["all"]}))
    following = asyncio.create_task(follow_access(knowledge, hub, every=3600.0))
    async with serving() as session:
        async with (
            session.get("/events", headers=as_key()) as response,
            session.ws_connect("/ws", headers=as_key()) as socket,
        ):
            stream = blocks(response)
            await anext(stream)
            await socket.receive_json()
            knowledge.set_access(access(key={"roles": ["all"], "revoked": True}))
            block = await next_event(stream)
            assert block["event"] == "closed"
            assert json.loads(block["data"])["reason"] == "KEY_REVOKED"
            assert [_ async for _ in stream] == []
            message = await socket.receive()
            assert (message.data, message.extra.split(":")[0]) == (1008, "KEY_REVOKED")
    following.cancel()


async def test_when_the_gateway_stops_streams_end_with_a_reason(hub, serving):
    async with serving() as session:
        async with session.get("/events") as response, session.ws_connect("/ws") as socket:
            stream = blocks(response)
            await anext(stream)
            await socket.receive_json()
            hub.publish("service.added", "a", {})
            await hub.close(5.0)
            assert hub.readers == 0
            assert (await next_event(stream))["event"] == "service.added"
            assert json.loads((await next_event(stream))["data"])["reason"] == "GATEWAY_STOPPING"
            assert (await socket.receive_json())["type"] == "service.added"
            message = await socket.receive()
            assert (message.data, message.extra.split(":")[0]) == (1001, "GATEWAY_STOPPING")
        async with session.get("/events") as response:
            assert response.status == 503


async def test_a_socket_changes_what_it_wants_and_goes_on_where_it_likes(hub, serving):
    async with serving() as session, session.ws_connect("/ws?services=a") as socket:
        assert await socket.receive_json() == {"type": "ready", "id": "abc-0", "complete": True}
        made = [hub.publish("service.added", name, {}) for name in "ab"]
        assert await socket.receive_json() == made[0].to_json()
        await socket.send_json({"type": "subscribe", "services": ["b"], "after": "abc-0"})
        assert await socket.receive_json() == {"type": "subscribed", "id": "abc-0", "complete": True}
        assert await socket.receive_json() == made[1].to_json()
        await socket.send_json({"type": "unsubscribe"})
        assert await socket.receive_json() == {"type": "unsubscribed"}
        hub.publish("service.added", "b", {})
        await socket.send_json({"type": "ping", "data": 7})
        assert await socket.receive_json() == {"type": "pong", "data": 7}
        await socket.send_json({"type": "subscribe", "after": "gone-1"})
        assert [(await socket.receive_json())["type"] for _ in range(3)] == ["subscribed", "reset", "snapshot"]


NOT_UNDERSTOOD = (
    *("", "x", "[]", "{}", '{"type": 1}', '{"type": "shout"}', '{"type":"subscribe","types":"a"}', "[" * 9000),
    *('{"type":"subscribe","services":[1]}', '{"type":"subscribe","after":1}', '{"type":"subscribe","types":["x"]}'),
)


async def test_what_is_not_understood_is_answered_and_ends_nothing(serving):
    async with serving() as session, session.ws_connect("/ws") as socket:
        await socket.receive_json()
        for text in NOT_UNDERSTOOD:
            await socket.send_str(text)
            answer = await socket.receive_json()
            assert (answer["type"], answer["reason"]) == ("error", "INVALID_INPUT"), text
            assert answer["fix"]
        await socket.send_bytes(b"{}")
        assert (await socket.receive_json())["type"] == "error"


async def test_a_silent_socket_is_pinged_and_a_pong_is_taken(hub, serving):
    async with serving(heartbeat=0.01) as session, session.ws_connect("/ws") as socket:
        await socket.receive_json()
        for _ in range(2):
            assert await socket.receive_json() == {"type": "ping", "id": "abc-0"}
            await socket.send_json({"type": "pong"})


async def test_too_large_and_too_many_messages_close_a_socket(serving):
    async with serving() as session:
        async with session.ws_connect("/ws") as socket:
            await socket.receive_json()
            await socket.send_str("x" * 20_000)
            message = await socket.receive()
            assert (message.data, message.extra.split(":")[0]) == (1009, "MESSAGE_TOO_LARGE")
        async with session.ws_connect("/ws") as socket:
            await socket.receive_json()
            with contextlib.suppress(ConnectionError):
                for _ in range(500):
                    await socket.send_json({"type": "pong"})
            message = await socket.receive()
            assert (message.data, message.extra.split(":")[0]) == (1008, "TOO_MANY_MESSAGES")


WELCOME = (None, "http://edge", "https://EDGE", ORIGIN)
STRANGERS = ("https://evil.example", "null", "http://edge.evil.example", "")


async def test_pages_of_other_sites_may_connect_only_where_the_document_says_so(knowledge, access, serving):
    knowledge.set_access(access(anonymous=("all",), origins=(ORIGIN,)))
    async with serving() as session:
        for origin in (*WELCOME, *STRANGERS):
            headers = {} if origin is None else {"origin": origin}
            async with session.ws_connect("/ws", headers=headers) as socket:
                message = await socket.receive()
                if origin in WELCOME:
                    assert json.loads(message.data)["type"] == "ready", origin
                else:
                    assert (message.data, message.extra.split(":")[0]) == (1008, "ORIGIN_NOT_ALLOWED"), origin


async def test_the_log_has_no_queries_of_sockets(serving, caplog):
    caplog.set_level("INFO")
    async with serving() as session, session.ws_connect("/ws?access_token=secret") as socket:
        await socket.receive_json()
    assert "secret" not in caplog.text
