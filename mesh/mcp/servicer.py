"""Serves agentmesh.mcp.v1.McpBridgeService: the typed facade over one shared connection, Link, Ask and Dialog."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc.aio
from google.api import httpbody_pb2

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from agentmesh.mcp.v1 import mcp_bridge_service_pb2_grpc as pb_grpc
from mesh.errors import InvalidInput, MeshError, Unavailable
from mesh.mcp.calls import CallNews, ProgressNews
from mesh.mcp.changes import Change, ListChanged
from mesh.mcp.connection import Connection
from mesh.mcp.convert import (
    log_level_from_proto,
    log_to_proto,
    objects_of,
    progress_to_proto,
    prompt_message_to_proto,
    prompt_to_proto,
    resource_contents_to_proto,
    resource_template_to_proto,
    resource_to_proto,
    server_info_to_proto,
    text_of,
    tool_result_to_proto,
    tool_to_proto,
)
from mesh.mcp.faults import bad_answer, may_mean_unknown
from mesh.mcp.frames import DEFAULT_MAX_FRAME_BYTES, dump_json, load_json_object
from mesh.mcp.link import LinkServer
from mesh.mcp.requests.serving import RequestServer
from mesh.mcp.tool_call import call_tool
from mesh.mcp.upstream import Upstream
from mesh.mcp.watching import open_watch
from mesh.rpc import call_context
from mesh.telemetry import get_logger

UNARY_TIMEOUT = 60.0
"""Seconds for a unary call that has no deadline of its own."""

STREAM_TIMEOUT = 3600.0
"""Seconds for a tool call that has no deadline of its own."""

_log = get_logger(__name__)
_T = TypeVar("_T")
_Context = grpc.aio.ServicerContext[Any, Any]


class McpBridgeServicer(pb_grpc.McpBridgeServiceServicer):
    """The bridge's service; `draining` ends its Watch and Link streams."""

    def __init__(
        self,
        upstream: Upstream,
        links: LinkServer,
        requests: RequestServer,
        *,
        draining: asyncio.Event,
        max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES,
    ) -> None:
        self._upstream = upstream
        self._links = links
        self._requests = requests
        self._draining = draining
        self._max_frame_bytes = max_frame_bytes

    # The stubs' types know only streams that yield; a yield inside a task group or timeout is not safe, so these write.
    async def Link(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.LinkRequest], context: _Context
    ) -> None:
        await self._links.serve(request_iterator, context)

    async def Ask(self, request: pb.AskRequest, context: _Context) -> pb.AskResponse:
        return await self._requests.ask(request, context)

    async def Dialog(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.DialogRequest], context: _Context
    ) -> None:
        await self._requests.serve_dialog(request_iterator, context)

    async def GetServer(self, request: pb.GetServerRequest, context: _Context) -> pb.GetServerResponse:
        connection, _ = await self._connect(context)
        version = connection.session.protocol_version or ""
        server = self._read(connection, "initialize", lambda: server_info_to_proto(connection.hello, version))
        return pb.GetServerResponse(server=server)

    async def ListTools(self, request: pb.ListToolsRequest, context: _Context) -> pb.ListToolsResponse:
        connection, left = await self._connect(context)
        raw = await connection.list_tools(_page(request.page_token), timeout=left())
        return self._read(
            connection,
            "tools/list",
            lambda: pb.ListToolsResponse(
                tools=[tool_to_proto(tool) for tool in objects_of(raw, "tools")],
                next_page_token=text_of(raw, "nextCursor"),
            ),
        )

    async def CallTool(  # type: ignore[override]
        self, request: pb.CallToolRequest, context: _Context
    ) -> None:
        if not request.name:
            raise InvalidInput("A tool is called by its name, and there is none.", field="name")
        arguments = self._json_object(request.arguments, "arguments")
        meta = self._json_object(request.meta, "meta")
        connection, left = await self._connect(context, default=STREAM_TIMEOUT)
        news = CallNews(_caller(), log_level_from_proto(request.log_level))
        failure: MeshError | None = None
        raw: dict[str, Any] = {}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_tell(news, context))
            try:
                raw = await call_tool(connection, request.name, arguments, meta, news, timeout=left())
            except MeshError as err:
                failure = err
            finally:
                news.close()
        withheld = connection.calls.take_withheld()
        if news.dropped or withheld:
            _log.warning("mcp_news_dropped", tool=request.name, dropped=news.dropped, withheld=withheld)
        if failure is not None:
            raise failure
        result = self._read(connection, "tools/call", lambda: tool_result_to_proto(raw))
        await context.write(pb.CallToolResponse(result=result))

    async def InvokeTool(self, request: pb.InvokeToolRequest, context: _Context) -> httpbody_pb2.HttpBody:
        if not request.name:
            raise InvalidInput("A tool is called by its name, and there is none.", field="name")
        arguments = self._json_object(request.arguments.data, "arguments")
        connection, left = await self._connect(context)
        # Bounded, and nobody reads them.
        news = CallNews(_caller(), None)
        raw = await call_tool(connection, request.name, arguments, {}, news, timeout=left())
        data = self._read(connection, "tools/call", lambda: dump_json(raw))
        return httpbody_pb2.HttpBody(content_type="application/json", data=data)

    async def ListResources(self, request: pb.ListResourcesRequest, context: _Context) -> pb.ListResourcesResponse:
        connection, left = await self._connect(context)
        raw = await connection.request("resources/list", _page(request.page_token), timeout=left())
        return self._read(
            connection,
            "resources/list",
            lambda: pb.ListResourcesResponse(
                resources=[resource_to_proto(resource) for resource in objects_of(raw, "resources")],
                next_page_token=text_of(raw, "nextCursor"),
            ),
        )

    async def ReadResource(self, request: pb.ReadResourceRequest, context: _Context) -> pb.ReadResourceResponse:
        if not request.uri:
            raise InvalidInput("A resource is read by its URI, and there is none.", field="uri")
        connection, left = await self._connect(context)
        raw = await connection.request("resources/read", {"uri": request.uri}, timeout=left())
        return self._read(
            connection,
            "resources/read",
            lambda: pb.ReadResourceResponse(
                contents=[resource_contents_to_proto(contents) for contents in objects_of(raw, "contents")]
            ),
        )

    async def ListResourceTemplates(
        self, request: pb.ListResourceTemplatesRequest, context: _Context
    ) -> pb.ListResourceTemplatesResponse:
        connection, left = await self._connect(context)
        raw = await connection.request("resources/templates/list", _page(request.page_token), timeout=left())
        return self._read(
            connection,
            "resources/templates/list",
            lambda: pb.ListResourceTemplatesResponse(
                resource_templates=[resource_template_to_proto(one) for one in objects_of(raw, "resourceTemplates")],
                next_page_token=text_of(raw, "nextCursor"),
            ),
        )

    async def ListPrompts(self, request: pb.ListPromptsRequest, context: _Context) -> pb.ListPromptsResponse:
        connection, left = await self._connect(context)
        raw = await connection.request("prompts/list", _page(request.page_token), timeout=left())
        return self._read(
            connection,
            "prompts/list",
            lambda: pb.ListPromptsResponse(
                prompts=[prompt_to_proto(prompt) for prompt in objects_of(raw, "prompts")],
                next_page_token=text_of(raw, "nextCursor"),
            ),
        )

    async def GetPrompt(self, request: pb.GetPromptRequest, context: _Context) -> pb.GetPromptResponse:
        if not request.name:
            raise InvalidInput("A prompt is found by its name, and there is none.", field="name")
        connection, left = await self._connect(context)
        params: dict[str, Any] = {"name": request.name}
        if request.arguments:
            params["arguments"] = dict(request.arguments)
        try:
            raw = await connection.request("prompts/get", params, timeout=left())
        except MeshError as err:
            if may_mean_unknown(err):
                await connection.check_listed("prompt", request.name, timeout=left())
            raise
        return self._read(
            connection,
            "prompts/get",
            lambda: pb.GetPromptResponse(
                description=text_of(raw, "description"),
                messages=[prompt_message_to_proto(message) for message in objects_of(raw, "messages")],
            ),
        )

    async def Complete(self, request: pb.CompleteRequest, context: _Context) -> pb.CompleteResponse:
        match request.WhichOneof("reference"):
            case "prompt":
                reference = {"type": "ref/prompt", "name": request.prompt}
            case "resource_template":
                reference = {"type": "ref/resource", "uri": request.resource_template}
            case _:
                raise InvalidInput("It is not said what the argument belongs to.", field="reference")
        if not request.argument_name:
            raise InvalidInput("It is not said which argument is to be completed.", field="argument_name")
        params: dict[str, Any] = {
            "ref": reference,
            "argument": {"name": request.argument_name, "value": request.argument_value},
        }
        if request.context_arguments:
            params["context"] = {"arguments": dict(request.context_arguments)}
        connection, left = await self._connect(context)
        raw = await connection.request("completion/complete", params, timeout=left())
        return self._read(connection, "completion/complete", lambda: _completion(raw))

    async def Watch(  # type: ignore[override]
        self, request: pb.WatchRequest, context: _Context
    ) -> None:
        uris = frozenset(request.resource_uris)
        if "" in uris:
            raise InvalidInput("A resource is watched by its URI, and one is empty.", field="resource_uris")
        connection, left = await self._connect(context)
        drained = asyncio.create_task(self._draining.wait())
        try:
            async with open_watch(connection, uris, timeout=min(left(), UNARY_TIMEOUT)) as next_change:
                await context.write(pb.WatchResponse(ready=pb.WatchReady()))
                while (change := await _first(next_change(), drained)) is not None:
                    await context.write(_change_to_proto(change))
        finally:
            drained.cancel()
        raise Unavailable("The bridge is shutting down.", fix="Watch again; another instance answers.")

    async def _connect(
        self, context: _Context, *, default: float = UNARY_TIMEOUT
    ) -> tuple[Connection, Callable[[], float]]:
        """Return the connection, and a function that tells how many seconds the call still has."""
        loop = asyncio.get_running_loop()
        remaining = context.time_remaining()
        ends = loop.time() + (default if remaining is None else remaining)
        # A little less than the call has, so that its caller still learns why there was no server.
        connection = await self._upstream.connection(wait=max(0.9 * (ends - loop.time()), 0.001))
        return connection, lambda: max(ends - loop.time(), 0.001)

    def _json_object(self, text: bytes, field: str) -> dict[str, Any]:
        if len(text) > self._max_frame_bytes:
            raise InvalidInput(
                f"{len(text)} bytes are more than the {self._max_frame_bytes} that a frame may have.",
                field=field,
                fix="Send less, or raise the bridge's --max-frame-bytes.",
            )
        try:
            return load_json_object(text)
        except ValueError as err:
            raise InvalidInput(f"The bytes are not a JSON object: {err}.", field=field) from None

    def _read(self, connection: Connection, method: str, convert: Callable[[], _T]) -> _T:
        try:
            return convert()
        except (ValueError, TypeError) as err:
            raise bad_answer(connection.server, method, str(err)) from err


async def _tell(news: CallNews, context: _Context) -> None:
    """Write news to the caller as it comes, until the last."""
    while (piece := await news.next()) is not None:
        if isinstance(piece, ProgressNews):
            await context.write(pb.CallToolResponse(progress=progress_to_proto(piece)))
        else:
            await context.write(pb.CallToolResponse(log=log_to_proto(piece)))


async def _first(change: Any, drained: asyncio.Task[Any]) -> Change | None:
    """Wait for a change; None when the bridge drains first."""
    waiting: asyncio.Task[Change] = asyncio.ensure_future(change)
    try:
        await asyncio.wait({waiting, drained}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        waiting.cancel()


def _page(token: str) -> dict[str, Any]:
    return {"cursor": token} if token else {}


def _caller() -> str:
    caller = call_context().caller
    return "" if caller is None else str(caller)


def _completion(raw: dict[str, Any]) -> pb.CompleteResponse:
    found = raw.get("completion")
    if not isinstance(found, dict) or not isinstance(found.get("values"), list):
        raise ValueError("completion.values is not a list")
    response = pb.CompleteResponse(values=found["values"], has_more=found.get("hasMore") is True)
    total = found.get("total")
    if isinstance(total, int) and 0 <= total < 2**32:
        response.total = total
    return response


def _change_to_proto(change: Change) -> pb.WatchResponse:
    if not isinstance(change, ListChanged):
        return pb.WatchResponse(resource_updated=pb.ResourceUpdated(uri=change.uri))
    match change.kind:
        case "tools":
            return pb.WatchResponse(tool_list_changed=pb.ToolListChanged())
        case "resources":
            return pb.WatchResponse(resource_list_changed=pb.ResourceListChanged())
        case "prompts":
            return pb.WatchResponse(prompt_list_changed=pb.PromptListChanged())
