"""An agent as its author writes it."""

import sys

from mesh.agent import Agent, TaskContext, run_agent

agent = Agent(name="greeter", version="1.0.0", description="Greets.")


@agent.skill(id="greet")
async def greet(name: str, task: TaskContext) -> str:
    """Greets somebody by name."""
    return f"Hello, {name}."


sys.exit(run_agent(agent))
