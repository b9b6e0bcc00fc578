import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from mesh.errors import Unavailable
from services.gateway.federation.listing import Listings
from services.gateway.federation.shelves import open_shelves


class Server:
    """A server whose answers and changes a test decides."""

    def __init__(self, *tools, is_down=False, is_stuck=False):
        self.tools = list(tools)
        self.is_down = is_down
        self.is_stuck = is_stuck
        self.asked = 0
        self._news = asyncio.Queue()

    def change(self, *tools):
        self.tools = list(tools)
        self._news.put_nowait("tools")

    def die(self):
        self.is_down = True
        self._news.put_nowait(None)

    async def hello(self):
        await self._answer()
        return {}

    async def list(self, kind):
        await self._answer()
        return [{"name": name, "inputSchema": {"type": "object"}} for name in self.tools] if kind == "tools" else []

    @asynccontextmanager
    async def changes(self):
        if self.is_down:
            raise Unavailable("It is away.")

        async def read():
            while (kind := await self._news.get()) is not None:
                yield kind

        yield read()

    async def _answer(self):
        self.asked += 1
        if self.is_stuck:
            await asyncio.Event().wait()
        if self.is_down:
            raise Unavailable("It is away.")


def everything(server, kind, name):
    return True


async def names(shelves, may=everything, who="all"):
    found = await shelves.look()
    return [offer.shown for offer in listings.offers(found, shelves.version, "tools", (id(shelves), who), may)]


listings = Listings()


@asynccontextmanager
async def kept(**servers):
    async with open_shelves(lambda name, kind: servers[name]) as shelves:
        shelves.follow((name, "mcp", 1) for name in servers)
        yield shelves


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_all_is_listed_by_server():
    async with kept(b=Server("x"), a=Server("y", "x")) as shelves:
        assert await names(shelves) == ["a__y", "a__x", "b__x"]


async def test_a_server_that_is_down_or_stuck_holds_up_no_other():
    async with kept(down=Server("x", is_down=True), stuck=Server("x", is_stuck=True), well=Server("x")) as shelves:
        async with asyncio.timeout(5):
            assert await names(shelves) == ["well__x"]
        await until(lambda: shelves.find("down").problem)
        result = json.loads(listings.result(await shelves.look(), shelves.version, "tools", id(shelves), everything))
        assert {each["server"]: each["reason"] for each in result["_meta"]["agentmesh/degraded"]} == {
            "down": "It is away."
        }


async def test_what_was_known_of_a_server_stays_listed_while_it_is_away_and_it_heals_by_itself():
    server = Server("x")
    async with kept(server=server) as shelves:
        assert await names(shelves) == ["server__x"]
        server.die()
        await until(lambda: shelves.find("server").problem)
        assert await names(shelves) == ["server__x"]
        server.is_down = False
        server.tools.append("y")
        await until(lambda: not shelves.find("server").problem)
        assert await names(shelves) == ["server__x", "server__y"]


async def test_a_server_that_comes_back_is_asked_at_once():
    server = Server("x")
    server.is_down = True
    async with kept(server=server) as shelves:
        assert await names(shelves) == []
        shelves.follow([("server", "mcp", 0)])
        # Long enough for the pauses between tries to grow.
        for _ in range(50):
            shelves.find("server").problem or await asyncio.sleep(0)
        server.is_down = False
        shelves.follow([("server", "mcp", 1)])
        assert await names(shelves) == ["server__x"]


async def test_changes_are_read_and_told():
    server = Server("x")
    async with kept(server=server) as shelves, shelves.listen() as news:
        await names(shelves)
        while not news.empty():
            news.get_nowait()
        server.change("x", "y")
        async with asyncio.timeout(5):
            change = await news.get()
        assert (change.server, change.kind) == ("server", "tools")
        assert await names(shelves) == ["server__x", "server__y"]


async def test_a_server_that_leaves_the_mesh_is_not_listed_any_more():
    async with kept(a=Server("x"), b=Server("x")) as shelves, shelves.listen() as news:
        await names(shelves)
        shelves.follow([("a", "mcp", 1)])
        assert await names(shelves) == ["a__x"]
        assert shelves.find("b") is None
        assert not news.empty()


async def test_each_caller_sees_what_it_may_use():
    async with kept(a=Server("x", "y"), b=Server("z")) as shelves:
        assert await names(shelves, lambda server, kind, name: server == "a" and name != "y", "some") == ["a__x"]
        assert await names(shelves) == ["a__x", "a__y", "b__z"]


async def test_tools_without_a_name_are_left_out():
    server = Server()
    server.list = _some_without_names
    async with kept(a=server) as shelves:
        assert await names(shelves) == ["a__good"]


async def _some_without_names(kind):
    return [{"name": "good"}, {"name": 3}, {}, "text", {"name": ""}] if kind == "tools" else []


@pytest.mark.parametrize("count", [50])
async def test_many_servers_are_listed_in_one_go_and_only_once(count):
    servers = {f"s{number}": Server(*(f"tool_{each}" for each in range(20))) for number in range(count)}
    async with kept(**servers) as shelves:
        found = await shelves.look()
        first = listings.result(found, shelves.version, "tools", "many", everything)
        assert len(json.loads(first)["tools"]) == 20 * count
        assert listings.result(found, shelves.version, "tools", "many", everything) is first
