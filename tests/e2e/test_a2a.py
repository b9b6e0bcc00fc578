"""Agents of the mesh for clients of A2A: the SDK's own client, all bindings, through real Envoys on TLS."""

import asyncio
import json
import ssl
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
import pytest
from a2a.client import Client, ClientConfig, create_client
from a2a.client.errors import A2AClientError
from a2a.types import a2a_pb2 as a2a
from a2a.utils import errors
from a2a.utils.signing import InvalidSignaturesError, create_signature_verifier
from aiohttp import web
from aiohttp.test_utils import TestServer
from google.protobuf.json_format import Parse, ParseDict
from jwt import PyJWK

from benchmarks.ports import free_ports

MESH = """\
services:
  speaker:
    kind: agent
    command: [python, tests/e2e/servers/speaker.py]
    instances: 2
  foreign:
    kind: agent
    url: http://127.0.0.1:{port}
    env: {{MESH_A2A_HEADERS: "Authorization: Bearer {token}"}}
"""
DOCUMENT = """\
access:
  roles:
    repeater:
      allow:
        - services: [speaker]
          skills: [repeat]
  bindings:
    everybody: null
"""
BINDINGS = ("JSONRPC", "HTTP+JSON", "GRPC")
ENDED = (a2a.TASK_STATE_COMPLETED, a2a.TASK_STATE_FAILED, a2a.TASK_STATE_CANCELED, a2a.TASK_STATE_REJECTED)


@dataclass
class Edge:
    """The edge of a mesh, and keys for it: two that may call everything, one that may only repeat."""

    mesh: Any
    address: str
    authority: bytes
    key: str
    other_key: str
    repeater_key: str

    @property
    def url(self) -> str:
        return self.url_of("speaker")

    def url_of(self, agent: str) -> str:
        return f"https://{self.address}/agents/{agent}"

    def http(self, key: str = "") -> httpx.AsyncClient:
        context = ssl.create_default_context(cadata=self.authority.decode())
        return httpx.AsyncClient(verify=context, headers={"x-api-key": key} if key else {}, timeout=20)

    def channel(self, target: str, key: str) -> grpc.aio.Channel:
        def add_key(context: Any, callback: Any) -> None:
            callback((("x-api-key", key),), None)

        credentials = grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(self.authority), grpc.metadata_call_credentials(add_key)
        )
        return grpc.aio.secure_channel(target, credentials)

    @asynccontextmanager
    async def client(
        self, binding: str, key: str = "", *, streaming: bool = True, agent: str = "speaker"
    ) -> AsyncIterator[Client]:
        async with self.http(key or self.key) as http:
            config = ClientConfig(
                streaming=streaming,
                httpx_client=http,
                grpc_channel_factory=lambda target: self.channel(target, key or self.key),
                supported_protocol_bindings=[binding],
            )
            async with asyncio.timeout(30), await create_client(self.url_of(agent), config) as client:
                yield client


@contextmanager
def foreign(port: int, token: str) -> Iterator[None]:
    """An agent that is not of the mesh, on a port."""
    command = [sys.executable, str(Path(__file__).parent / "servers" / "foreign.py"), str(port), token]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.kill()
        process.wait(timeout=10)


@pytest.fixture(scope="module")
def edge(start_mesh, tmp_path_factory):
    folder = tmp_path_factory.mktemp("a2a")
    (port,), token = free_ports(1), uuid.uuid4().hex
    (folder / "mesh.yaml").write_text(MESH.format(port=port, token=token))
    (folder / "document.yaml").write_text(DOCUMENT)
    with foreign(port, token), start_mesh(folder / "mesh.yaml", MESH_A2A_PUSH_NETWORKS="127.0.0.0/8") as mesh:
        applied = mesh.meshctl("apply", "--yes", str(folder / "document.yaml"))
        assert applied.returncode == 0, applied.stderr

        def key(role: str) -> str:
            return mesh.json("keys", "create", "--role", role)["secret"]

        authority = (mesh.state_dir / "edge" / "ca.pem").read_bytes()
        address = mesh.env["MESH_GATEWAY_TLS_BIND"]
        yield Edge(mesh, address, authority, key("caller"), key("caller"), key("repeater"))


def message(skill: str = "", *parts: a2a.Part, **more: Any) -> a2a.SendMessageRequest:
    made = a2a.Message(role=a2a.ROLE_USER, parts=parts, **{"message_id": uuid.uuid4().hex, **more})
    if skill:
        made.metadata["skill"] = skill
    return a2a.SendMessageRequest(message=made)


def text(content: str) -> a2a.Part:
    return a2a.Part(text=content)


def data(content: Any) -> a2a.Part:
    part = a2a.Part()
    ParseDict(content, part.data)
    return part


async def send(client: Client, request: a2a.SendMessageRequest) -> list[a2a.StreamResponse]:
    return [event async for event in client.send_message(request)]


@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_task_is_followed_from_its_submission_to_its_end(edge, binding):
    async with edge.client(binding) as client:
        events = await send(client, message("work", data({"seconds": 0.2, "pieces": 2})))
        assert events[0].HasField("task")
        updates = [event.status_update for event in events if event.HasField("status_update")]
        assert updates[-1].status.state == a2a.TASK_STATE_COMPLETED
        pieces = [event.artifact_update for event in events if event.HasField("artifact_update")]
        assert [(it.artifact.artifact_id, it.append) for it in pieces] == [
            ("report", False),
            ("report", True),
            ("3", False),
        ]
        task = await client.get_task(a2a.GetTaskRequest(id=events[0].task.id))
        assert [part.text for part in task.artifacts[0].parts] == ["piece 1\n", "piece 2\n"]
        assert (task.artifacts[0].name, task.artifacts[1].parts[0].text) == ("Report", "done")
        assert task.history[0].role == a2a.ROLE_USER
        with pytest.raises(errors.TaskNotCancelableError):
            await client.cancel_task(a2a.CancelTaskRequest(id=task.id))
        with pytest.raises(errors.UnsupportedOperationError):
            [event async for event in client.subscribe(a2a.SubscribeToTaskRequest(id=task.id))]


@pytest.mark.parametrize("binding", BINDINGS)
async def test_whatever_is_sent_comes_back_as_it_was(edge, binding):
    parts = [
        text("Grüße"),
        a2a.Part(raw=b"\0\xff", media_type="image/png", filename="dot.png"),
        a2a.Part(url="https://example.org/x.pdf", media_type="application/pdf"),
        data({"whole": 3, "half": 0.5, "list": [None, True, "x"]}),
    ]
    parts[0].metadata["lang"] = "de"
    async with edge.client(binding, edge.repeater_key, streaming=False) as client:
        # Only one skill may be called, so none needs to be named.
        (event,) = await send(client, message("", *parts))
        assert event.task.status.state == a2a.TASK_STATE_COMPLETED
        given = [part for artifact in event.task.artifacts for part in artifact.parts]
        for part in (parts[0], parts[3]):
            part.media_type = "application/json" if part.HasField("data") else "text/plain"
        assert given == parts
        assert list(event.task.history[0].parts) == parts


@pytest.mark.parametrize("binding", BINDINGS)
async def test_an_agent_asks_and_goes_on_with_the_answer(edge, binding):
    async with edge.client(binding, streaming=False) as client:
        (event,) = await send(client, message("ask", text("A hat")))
        task = event.task
        assert task.status.state == a2a.TASK_STATE_INPUT_REQUIRED
        assert task.status.message.parts[0].text == "A hat: which colour?"
        answer = message("", text("red"), task_id=task.id)
        for _ in range(2):
            # The second is a repetition, and changes nothing.
            (event,) = await send(client, answer)
            assert event.task.status.state == a2a.TASK_STATE_AUTH_REQUIRED
        (event,) = await send(client, message("", text("I have"), task_id=task.id, context_id=task.context_id))
        assert event.task.status.state == a2a.TASK_STATE_COMPLETED
        assert event.task.artifacts[0].parts[0].text == "A hat in red"
        said = [(it.role, it.parts[0].text) for it in event.task.history]
        user, agent = a2a.ROLE_USER, a2a.ROLE_AGENT
        assert said == [
            (user, "A hat"),
            (agent, "A hat: which colour?"),
            (user, "red"),
            (agent, "Log in, please."),
            (user, "I have"),
        ]
        with pytest.raises(errors.UnsupportedOperationError):
            await send(client, message("", text("more"), task_id=task.id))


@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_message_that_comes_twice_makes_one_task(edge, binding):
    request = message("work", data({"seconds": 0.1}))
    request.configuration.return_immediately = True
    async with edge.client(binding, streaming=False) as client:
        first, second = await asyncio.gather(*(client.send_message(request).__anext__() for _ in range(2)))
        assert first.task.id == second.task.id
    async with edge.client(binding, edge.other_key, streaming=False) as client:
        (event,) = await send(client, request)
        assert event.task.id != first.task.id


@pytest.mark.parametrize("binding", BINDINGS)
async def test_tasks_are_listed_to_their_owner_only_page_by_page_newest_first(edge, binding):
    context = uuid.uuid4().hex
    async with edge.client(binding, streaming=False) as client:
        made = [
            (await send(client, message("repeat", text(str(number)), context_id=context)))[0].task.id
            for number in range(5)
        ]
        seen: list[a2a.Task] = []
        token = ""
        while True:
            request = a2a.ListTasksRequest(context_id=context, page_size=2, page_token=token, include_artifacts=True)
            page = await client.list_tasks(request)
            assert (page.total_size, page.page_size) == (5, 2)
            seen += page.tasks
            token = page.next_page_token
            if not token:
                break
        assert [task.id for task in seen] == made[::-1]
        assert seen[0].artifacts[0].parts[0].text == "4"
        none = await client.list_tasks(a2a.ListTasksRequest(context_id=context, status=a2a.TASK_STATE_FAILED))
        assert none.total_size == 0
        with pytest.raises(errors.InvalidParamsError):
            await client.list_tasks(a2a.ListTasksRequest(page_size=101))
    async with edge.client(binding, edge.other_key) as client:
        assert (await client.list_tasks(a2a.ListTasksRequest(context_id=context))).total_size == 0
        with pytest.raises(errors.TaskNotFoundError):
            await client.get_task(a2a.GetTaskRequest(id=made[0]))
        with pytest.raises(errors.TaskNotFoundError):
            await client.cancel_task(a2a.CancelTaskRequest(id=made[0]))


@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_running_task_is_cancelled_and_whoever_follows_it_hears_of_it(edge, binding):
    request = message("work", data({"seconds": 60}))
    request.configuration.return_immediately = True
    async with edge.client(binding, streaming=False) as client, edge.client(binding) as follower:
        (event,) = await send(client, request)
        assert event.task.status.state in (a2a.TASK_STATE_SUBMITTED, a2a.TASK_STATE_WORKING)
        following = follower.subscribe(a2a.SubscribeToTaskRequest(id=event.task.id))
        assert (await anext(following)).task.id == event.task.id
        canceled = await client.cancel_task(a2a.CancelTaskRequest(id=event.task.id))
        assert canceled.status.state == a2a.TASK_STATE_CANCELED
        last = [it async for it in following][-1]
        assert last.status_update.status.state == a2a.TASK_STATE_CANCELED
        (event,) = await send(client, message("refuse", text("x")))
        assert event.task.status.state == a2a.TASK_STATE_REJECTED


@pytest.mark.parametrize("binding", BINDINGS)
async def test_each_caller_has_the_card_and_the_skills_that_are_its_own(edge, binding):
    async with edge.client(binding, edge.repeater_key) as client:
        card = await client.get_extended_agent_card(a2a.GetExtendedAgentCardRequest())
        assert [skill.id for skill in card.skills] == ["repeat"]
        assert card.supported_interfaces[1].url == edge.url
        with pytest.raises((errors.A2AError, A2AClientError)) as caught:
            await send(client, message("work", data({})))
        assert "may not call" in str(caught.value) or "403" in str(caught.value)
    async with edge.client(binding) as client:
        card = await client.get_extended_agent_card(a2a.GetExtendedAgentCardRequest())
        assert len(card.skills) == 4
        with pytest.raises(errors.InvalidParamsError) as invalid:
            await send(client, message("", text("x")))
        assert "repeat" in str(invalid.value)


async def test_the_card_is_told_to_those_who_may_see_it_and_cached(edge):
    where = f"{edge.url}/.well-known/agent-card.json"
    async with edge.http() as http:
        assert (await http.get(where)).status_code == 401
        assert (await http.get(where.replace("speaker", "nobody"))).status_code == 401
    async with edge.http(edge.key) as http:
        assert (await http.get(where.replace("speaker", "nobody"))).status_code == 404
        answer = await http.get(where)
        assert {"etag", "cache-control", "last-modified"} <= answer.headers.keys()
        assert (await http.get(where, headers={"if-none-match": answer.headers["etag"]})).status_code == 304


async def test_cards_are_signed_with_a_key_that_the_edge_publishes(edge):
    async with edge.http(edge.key) as http:
        text = (await http.get(f"{edge.url}/.well-known/agent-card.json")).text
        card = Parse(text, a2a.AgentCard())
        header = jwt.get_unverified_header(f"{card.signatures[0].protected}..{card.signatures[0].signature}")
        keys = {key["kid"]: PyJWK(key) for key in (await http.get(header["jku"])).json()["keys"]}
    verify = create_signature_verifier(lambda kid, _: keys[kid or ""], ["ES256"])
    verify(card)
    card.description += " And more."
    with pytest.raises(InvalidSignaturesError):
        verify(card)


async def test_an_agent_of_another_world_is_an_agent_of_the_mesh(edge):
    async with edge.client("JSONRPC", streaming=False, agent="foreign") as client:
        card = await client.get_extended_agent_card(a2a.GetExtendedAgentCardRequest())
        assert [(skill.id, skill.name) for skill in card.skills] == [("echo-it", "Echo")]
        (event,) = await send(client, message("", text("hello")))
        (artifact,) = event.task.artifacts
        assert (artifact.artifact_id, artifact.name) == ("echo", "Echo")
        assert [part.WhichOneof("content") for part in artifact.parts] == ["text", "raw"]
        assert event.task.status.state == a2a.TASK_STATE_COMPLETED
        (event,) = await send(client, message("", text("ask")))
        assert event.task.status.state == a2a.TASK_STATE_INPUT_REQUIRED
        assert event.task.status.message.parts[0].text == "What?"
        (event,) = await send(client, message("", text("this"), task_id=event.task.id))
        assert event.task.artifacts[0].parts[0].text == "answered this"
        (event,) = await send(client, message("", text("refuse")))
        assert event.task.status.state == a2a.TASK_STATE_REJECTED
        assert event.task.status.message.parts[0].text == "Not today."
        request = message("", text("wait"))
        request.configuration.return_immediately = True
        (event,) = await send(client, request)
        canceled = await client.cancel_task(a2a.CancelTaskRequest(id=event.task.id))
        assert canceled.status.state == a2a.TASK_STATE_CANCELED


class Receiver:
    """Takes notifications; refuses the first as if it were away for a moment."""

    def __init__(self) -> None:
        self.url = ""
        self.came: asyncio.Queue[tuple[dict[str, str], a2a.StreamResponse]] = asyncio.Queue()
        self._refused = False

    async def take(self, request: web.Request) -> web.Response:
        if not self._refused:
            self._refused = True
            return web.Response(status=503)
        event = Parse(await request.text(), a2a.StreamResponse())
        self.came.put_nowait(({name.lower(): value for name, value in request.headers.items()}, event))
        return web.Response()

    async def last(self) -> tuple[dict[str, str], a2a.TaskStatusUpdateEvent]:
        """What is told of the end of a task."""
        async with asyncio.timeout(20):
            while True:
                headers, told = await self.came.get()
                if told.status_update.status.state in ENDED:
                    return headers, told.status_update


@pytest.fixture
async def receiver():
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.take)
    async with TestServer(app) as server:
        made.url = str(server.make_url("/hook"))
        yield made


@pytest.mark.parametrize("binding", BINDINGS)
async def test_changes_are_sent_to_who_has_asked_for_it(edge, binding, receiver):
    config = a2a.TaskPushNotificationConfig(url=receiver.url, token="known")
    config.authentication.scheme, config.authentication.credentials = "Bearer", "secret"
    request = message("work", data({"seconds": 0.3}))
    request.configuration.return_immediately = True
    request.configuration.task_push_notification_config.CopyFrom(config)
    async with edge.client(binding, streaming=False) as client:
        (event,) = await send(client, request)
        task_id = event.task.id
        listed = await client.list_task_push_notification_configs(
            a2a.ListTaskPushNotificationConfigsRequest(task_id=task_id)
        )
        assert [it.url for it in listed.configs] == [config.url]
        headers, last = await receiver.last()
        assert last.status.state == a2a.TASK_STATE_COMPLETED
        assert headers["authorization"] == "Bearer secret"
        assert headers["x-a2a-notification-token"] == "known"


@pytest.mark.parametrize("binding", BINDINGS)
async def test_push_configurations_are_made_read_and_deleted_by_the_owner_only(edge, binding):
    request = message("work", data({"seconds": 60}))
    request.configuration.return_immediately = True
    async with edge.client(binding, streaming=False) as client, edge.client(binding, edge.other_key) as other:
        (event,) = await send(client, request)
        task_id = event.task.id
        config = a2a.TaskPushNotificationConfig(task_id=task_id, url="http://127.0.0.1:9/hook")
        made = await client.create_task_push_notification_config(config)
        which = a2a.GetTaskPushNotificationConfigRequest(task_id=task_id, id=made.id)
        assert (await client.get_task_push_notification_config(which)).url == config.url
        with pytest.raises(errors.TaskNotFoundError):
            await other.get_task_push_notification_config(which)
        for url in ("http://10.0.0.1/", "https://169.254.169.254/", "ftp://127.0.0.1/", "https://[::1]/"):
            config.url = url
            with pytest.raises(errors.InvalidParamsError):
                await client.create_task_push_notification_config(config)
        delete = a2a.DeleteTaskPushNotificationConfigRequest(task_id=task_id, id=made.id)
        for _ in range(2):
            await client.delete_task_push_notification_config(delete)
        with pytest.raises(errors.TaskNotFoundError):
            await client.get_task_push_notification_config(which)
        await client.cancel_task(a2a.CancelTaskRequest(id=task_id))


async def test_what_is_no_request_of_this_version_is_refused_as_the_specification_says(edge):
    request = {"jsonrpc": "2.0", "id": 7, "method": "GetTask", "params": {"id": "x"}}
    async with edge.http(edge.key) as http:

        async def code(body: Any = request, **headers: str) -> Any:
            given = {"content-type": "application/json", "a2a-version": "1.0"}
            given |= {name.replace("_", "-"): value for name, value in headers.items()}
            answer = await http.post(edge.url, content=json.dumps(body), headers=given)
            return answer.json()["error"]["code"]

        assert await code() == -32001
        assert await code(a2a_version="0.9") == -32009
        assert await code(a2a_version="") == -32009
        assert await code(content_type="text/plain") == -32005
        assert await code({**request, "method": "Nothing"}) == -32601
        assert await code({**request, "params": {"id": 5}}) == -32602
        assert await code("x") == -32600
        answer = await http.post(edge.url, content="{", headers={"content-type": "application/json"})
        assert answer.json()["error"]["code"] == -32700
        answer = await http.get(f"{edge.url}/tasks/x", headers={"a2a-version": "1.0"})
        assert answer.status_code == 404
        assert answer.json()["error"]["details"][0]["reason"] == "TASK_NOT_FOUND"
    async with edge.channel(edge.address, edge.key) as channel:
        ask = channel.unary_unary("/lf.a2a.v1.A2AService/GetTask")
        body = a2a.GetTaskRequest(id="x", tenant="speaker").SerializeToString()
        for version, wanted in (("1.0", grpc.StatusCode.NOT_FOUND), ("0.3", grpc.StatusCode.FAILED_PRECONDITION)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(body, metadata=(("a2a-version", version),), timeout=10)
            assert caught.value.code() is wanted
            assert b"a2a-protocol.org" in dict(caught.value.trailing_metadata())["grpc-status-details-bin"]


async def test_a_long_task_goes_on_while_the_gateway_is_started_anew_and_is_told_of_by_the_next_one(edge, receiver):
    request = message("work", data({"seconds": 3}))
    request.configuration.return_immediately = True
    request.configuration.task_push_notification_config.url = receiver.url
    async with edge.client("JSONRPC", streaming=False) as client, edge.client("JSONRPC") as follower:
        (event,) = await send(client, request)
        edge.mesh.kill(edge.mesh.pid_of("services.gateway", "MESH_WEB_LISTEN"))
        async with asyncio.timeout(20):
            while True:
                try:
                    events = [it async for it in follower.subscribe(a2a.SubscribeToTaskRequest(id=event.task.id))]
                except (A2AClientError, errors.A2AError, httpx.HTTPError):
                    await asyncio.sleep(0.05)
                    continue
                break
        assert events[-1].status_update.status.state == a2a.TASK_STATE_COMPLETED
        (again,) = await send(client, request)
        assert again.task.id == event.task.id
        _, last = await receiver.last()
        assert last.task_id == event.task.id
