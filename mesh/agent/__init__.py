"""What authors of agents import: serve an agent, use a tool, call another agent.

    agent = Agent(name="greeter", version="1.0.0", description="Greets.")

    @agent.skill(id="greet")
    async def greet(input: Greeting, task: TaskContext) -> Greeted: ...

    sys.exit(run_agent(agent))

    AgentServicer ──> TaskBoard ──> Task ──> handler(input, TaskContext) ──> MeshClient ──> own sidecar
       └── Conversation ──┘           └── updates, for watchers

May import mesh.mcp, mesh.sidecar, mesh.xds and what is below them; needs only mesh.rpc and below.
"""

from mesh.agent.agent import Agent, Coordination
from mesh.agent.board import TaskBoard, open_board
from mesh.agent.client import MeshClient, open_mesh_client
from mesh.agent.context import TaskContext
from mesh.agent.limits import AgentLimits
from mesh.agent.message import Message
from mesh.agent.part import Artifact, Part
from mesh.agent.remote_task import AgentResult, AgentUpdate
from mesh.agent.serve import AgentSettings, run_agent, serve
from mesh.agent.servicer import AgentServicer
from mesh.agent.skill import Skill
from mesh.agent.task import TaskState
from mesh.agent.tools import ToolInfo, ToolResult
from mesh.agent.user import User

__all__ = [
    "Agent",
    "AgentLimits",
    "AgentResult",
    "AgentServicer",
    "AgentSettings",
    "AgentUpdate",
    "Artifact",
    "Coordination",
    "MeshClient",
    "Message",
    "Part",
    "Skill",
    "TaskBoard",
    "TaskContext",
    "TaskState",
    "ToolInfo",
    "ToolResult",
    "User",
    "open_board",
    "open_mesh_client",
    "run_agent",
    "serve",
]
