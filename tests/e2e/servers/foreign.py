"""An agent of A2A that knows nothing of the mesh: the SDK's own server, behind a bearer token. Usage: PORT TOKEN."""

import asyncio
import sys

import uvicorn
from a2a.helpers import new_task_from_user_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import a2a_pb2 as a2a
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse


class Foreign(AgentExecutor):
    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        task = context.current_task or new_task_from_user_message(context.message)
        if context.current_task is None:
            await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        said = context.get_user_input()
        if context.current_task is not None:
            await updater.add_artifact([a2a.Part(text=f"answered {said}")], artifact_id="answer")
            await updater.complete()
        elif said == "ask":
            await updater.requires_input(updater.new_agent_message([a2a.Part(text="What?")]))
        elif said == "refuse":
            await updater.reject(updater.new_agent_message([a2a.Part(text="Not today.")]))
        elif said == "wait":
            await updater.start_work()
            await asyncio.sleep(60)
        else:
            await updater.add_artifact([a2a.Part(text=said), a2a.Part(raw=b"\1")], artifact_id="echo", name="Echo")
            await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id or "", context.context_id or "").cancel()


class Guarded:
    def __init__(self, app: Starlette, token: str) -> None:
        self._app = app
        self._header = (b"authorization", f"Bearer {token}".encode())

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http" and self._header not in scope["headers"]:
            await PlainTextResponse("no", 401)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def main(port: int, token: str) -> None:
    card = a2a.AgentCard(
        name="Foreign Agent",
        description="Echoes.",
        version="2.0",
        supported_interfaces=[
            a2a.AgentInterface(url=f"http://127.0.0.1:{port}/", protocol_binding="JSONRPC", protocol_version="1.0")
        ],
        capabilities=a2a.AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[a2a.AgentSkill(id="Echo It", name="Echo", description="Echoes.", tags=["echo"])],
    )
    handler = DefaultRequestHandler(Foreign(), InMemoryTaskStore(), card)
    app = Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")])
    uvicorn.run(Guarded(app, token), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
