"""GraphQL as the gateway serves it, in front of an agent, an MCP server and a control plane that are played."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import aiohttp
import grpc
import pytest

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc
from agentmesh.config.v1 import config_pb2
from agentmesh.error.v1 import error_pb2
from agentmesh.gateway.v1 import gateway_service_pb2
from agentmesh.mcp.v1 import mcp_bridge_service_pb2, mcp_bridge_service_pb2_grpc, mcp_pb2
from mesh.errors import NotFound
from mesh.rpc import ServerSettings, Service, call_context, open_server, open_target
from services.gateway.web.events import EventHub
from services.gateway.web.graphql import GraphQLDoor, Times
from services.gateway.web.server import build_app, open_web

DAY = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TOOLS = ("rate", "bond", "loan")


class Agent(agent_service_pb2_grpc.AgentServiceServicer):
    """One task, whose updates the test gives."""

    def __init__(self):
        self.asked = []
        self.users = []
        self.updates = asyncio.Queue()
        self.gate = asyncio.Event()
        self.gate.set()

    async def GetAgentCard(self, request, context):
        self.asked.append("card")
        self.users.append(call_context().user_token)
        await self.gate.wait()
        skills = [
            agent_pb2.Skill(id="evaluate", name="Evaluate", tags=["maths"], input_schema=b'{"type": "string"}'),
            agent_pb2.Skill(id="plan", name="Plan"),
        ]
        limits = agent_pb2.Limits(max_concurrent_tasks=4, max_input_bytes=5 << 30)
        return agent_service_pb2.GetAgentCardResponse(
            card=agent_pb2.AgentCard(version="1.2.3", skills=skills, limits=limits)
        )

    async def ListTasks(self, request, context):
        self.asked.append(request)
        task = agent_pb2.Task(
            id="t1",
            skill_id="plan",
            state=agent_pb2.TASK_STATE_FAILED,
            sequence=7,
            error=error_pb2.ErrorDetail(reason="NO_PLAN", summary="There is none."),
        )
        task.create_time.FromDatetime(DAY)
        return agent_service_pb2.ListTasksResponse(tasks=[task], next_page_token="" if request.page_token else "more")

    async def WatchTask(self, request, context):
        self.asked.append(request)
        if request.task_id != "t1":
            raise NotFound("There is no such task.", reason="UNKNOWN_TASK", field="task_id")
        while (update := await self.updates.get()) is not None:
            if isinstance(update, Exception):
                raise update
            yield agent_service_pb2.WatchTaskResponse(update=update)


class Bridge(mcp_bridge_service_pb2_grpc.McpBridgeServiceServicer):
    """Three tools on two pages."""

    def __init__(self):
        self.asked = []

    async def ListTools(self, request, context):
        self.asked.append(request.page_token)
        names = TOOLS[2:] if request.page_token else TOOLS[:2]
        tools = [mcp_pb2.Tool(name=name, input_schema=b'{"type": "object"}') for name in names]
        tools[0].annotations.read_only_hint = True
        return mcp_bridge_service_pb2.ListToolsResponse(tools=tools, next_page_token="" if request.page_token else "2")


class ControlPlane:
    """Five revisions."""

    def __init__(self):
        self.asked = []
        self.newest = 5

    async def ListRevisions(self, request, timeout):
        self.asked.append((request.page_size, request.before))
        numbers = range((request.before or self.newest + 1) - 1, 0, -1)[: request.page_size]
        revisions = [
            config_pb2.Revision(number=it, author="ada", status=config_pb2.REVISION_STATUS_ACTIVE) for it in numbers
        ]
        return gateway_service_pb2.ListRevisionsResponse(revisions=revisions)


class Sockets:
    """In place of channels through a sidecar: one socket for each service."""

    def __init__(self, folder):
        self.folder = folder

    @asynccontextmanager
    async def use(self, service):
        async with open_target(f"unix:{self.folder}/{service}.sock", default_deadline=5) as channel:
            yield channel


class Edge:
    """What a test has in hand."""

    def __init__(self, world, session):
        self.world = world
        self.knowledge = world.knowledge
        self.session = session
        self.hub = EventHub()
        self.agent, self.bridge, self.control_plane = Agent(), Bridge(), ControlPlane()

    @property
    def as_root(self):
        return {"x-mesh-user": self.world.token()}

    async def ask(self, query, variables=None, *, headers=None, status=200):
        """The answer to a query, of somebody who may do everything."""
        body = {"query": query, "variables": variables}
        async with self.session.post("/graphql", json=body, headers=headers or self.as_root) as response:
            text = await response.text()
            assert response.status == status, text
            return json.loads(text)

    async def data(self, query, variables=None, **more):
        answer = await self.ask(query, variables, **more)
        assert "errors" not in answer, answer
        return answer["data"]

    async def error(self, query, variables=None, **more):
        (error,) = (await self.ask(query, variables, **more))["errors"]
        return error

    async def events(self, query, headers=None):
        """What a subscription gives, by SSE."""
        headers = {"accept": "text/event-stream", **(headers or self.as_root)}
        async with self.session.post("/graphql", json={"query": query}, headers=headers) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            name = ""
            async for line in response.content:
                key, _, value = line.decode().strip().partition(": ")
                if key == "event":
                    name = value
                elif key == "data" and name == "next":
                    yield json.loads(value)

    async def read(self, stream):
        """The next of them, None at the end."""
        return await asyncio.wait_for(anext(stream, None), 5)


@asynccontextmanager
async def serving(edge, folder, name, descriptor, add):
    settings = ServerSettings(service=name, listen=f"unix:{folder}/{name}.sock")
    async with open_server(settings, [Service(descriptor, add)]) as server:
        await server.set_serving(True)
        yield


@pytest.fixture
def times():
    return Times(look_again=0.01)


@pytest.fixture
def signed():
    return []


@pytest.fixture
async def edge(world, short_folder, times, signed):
    path = short_folder / "web.sock"

    def sign(principal):
        signed.append(principal)
        return f"signed-for-{principal}"

    async with AsyncExitStack() as stack:
        timeout = aiohttp.ClientTimeout(10)
        connector = aiohttp.UnixConnector(str(path))
        session = aiohttp.ClientSession("http://edge.example", connector=connector, timeout=timeout)
        edge = Edge(world, session)
        agents, bridges = agent_service_pb2, mcp_bridge_service_pb2
        for name, descriptor, add in (
            (
                "von-neumann",
                agents.DESCRIPTOR.services_by_name["AgentService"],
                lambda server: agent_service_pb2_grpc.add_AgentServiceServicer_to_server(edge.agent, server),
            ),
            (
                "financial",
                bridges.DESCRIPTOR.services_by_name["McpBridgeService"],
                lambda server: mcp_bridge_service_pb2_grpc.add_McpBridgeServiceServicer_to_server(edge.bridge, server),
            ),
        ):
            await stack.enter_async_context(serving(edge, short_folder, name, descriptor, add))
        edge.door = GraphQLDoor(world.knowledge, edge.hub, edge.control_plane, Sockets(short_folder), sign, times=times)
        await stack.enter_async_context(open_web(f"unix:{path}", build_app(edge.door.routes)))
        stack.callback(edge.door.end_streams)
        await stack.enter_async_context(session)
        yield edge


@pytest.fixture
def unavailable():
    return lambda words: grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), words
    )
