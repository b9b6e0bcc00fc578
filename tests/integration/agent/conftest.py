"""An agent served on a unix socket."""

import asyncio
import contextlib

import pytest
from pydantic import BaseModel, Field

from agentmesh.agent.v1 import agent_service_pb2_grpc
from mesh.agent import Agent, AgentLimits, AgentSettings, Coordination, Part, TaskContext, serve
from mesh.errors import (
    FailedPrecondition,
)
from mesh.rpc import open_target
from mesh.runtime import Stop


class Steps(BaseModel):
    count: int = Field(ge=0, le=1000)


class Probe:
    """The agent under test, and what its handlers have seen."""

    def __init__(self, **limits):
        self.release = asyncio.Event()
        self.started = 0
        self.canceled = 0
        self.agent = Agent(
            name="probe",
            version="1.0.0",
            description="For tests.",
            limits=AgentLimits(report_interval=0.0, **{"drain_seconds": 5.0} | limits),
        )

        @self.agent.skill(id="count", description="Counts.", tags=["numbers"])
        async def count(steps: Steps, task: TaskContext) -> list[int]:
            for number in range(steps.count):
                task.report(number / steps.count, f"step {number}")
                await asyncio.sleep(0)
            return list(range(steps.count))

        @self.agent.skill(id="wait", tags=["numbers", "slow"])
        async def wait(text: str, task: TaskContext) -> str:
            self.started += 1
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.canceled += 1
                raise
            return f"{text} done"

        @self.agent.skill(id="fail")
        async def fail(text: str, task: TaskContext) -> None:
            if text == "unexpected":
                raise RuntimeError("the password is 123")
            raise FailedPrecondition("It cannot be.", field="input", fix="Do something else.")

        @self.agent.skill(id="ask")
        async def ask(text: str, task: TaskContext) -> str:
            answer = await task.ask(f"{text}?", needs_login=text == "login")
            return f"{text} {answer.parts[0].value}"

        @self.agent.skill(id="refuse")
        async def refuse(text: str, task: TaskContext) -> None:
            task.reject("Not today.")

        @self.agent.skill(id="all")
        async def take_all(parts: list[Part], task: TaskContext) -> int:
            return len(parts)

        @self.agent.coordination
        async def coordinate(message: Coordination) -> bytes | None:
            return message.payload[::-1] or None


@pytest.fixture
def running(short_dir):
    """Serve a probe; yields (probe, stub, stop, serving task)."""

    @contextlib.asynccontextmanager
    async def running(**limits):
        probe, stop = Probe(**limits), Stop()
        settings = AgentSettings(
            listen=f"unix:{short_dir}/app.sock",
            service="probe",
            instance="probe-1",
            outbound=f"unix:{short_dir}/app.sock",
        )
        serving = asyncio.create_task(serve(probe.agent, stop, settings))
        try:
            async with asyncio.timeout(30), open_target(settings.listen) as channel:
                await channel.channel_ready()
                yield probe, agent_service_pb2_grpc.AgentServiceStub(channel), stop, serving
        finally:
            stop.set()
            probe.release.set()
            await serving

    return running
