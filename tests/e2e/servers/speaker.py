"""An agent whose tasks do what agents can do: answer, ask, take their time, refuse, send several pieces."""

import asyncio
import sys

from pydantic import BaseModel

from mesh.agent import Agent, Artifact, Part, TaskContext, run_agent

agent = Agent(name="speaker", version="1.0.0", description="Does what agents can do.")


class Work(BaseModel):
    seconds: float = 0.2
    pieces: int = 2


@agent.skill(id="repeat")
async def repeat(input: list[Part], task: TaskContext) -> None:  # noqa: A002
    """Give back what came."""
    for part in input:
        task.add_output(part)


@agent.skill(id="ask")
async def ask(input: str, task: TaskContext) -> str:  # noqa: A002
    """Ask two things."""
    colour = await task.ask(f"{input}: which colour?")
    await task.ask("Log in, please.", needs_login=True)
    return f"{input} in {colour.parts[0].value}"


@agent.skill(id="work")
async def work(input: Work, task: TaskContext) -> str:  # noqa: A002
    """Take some time."""
    report = Artifact("report", "Report", "What was done.")
    for piece in range(input.pieces):
        await asyncio.sleep(input.seconds / input.pieces)
        task.report((piece + 1) / input.pieces, f"piece {piece + 1}")
        task.add_output(Part("text", f"piece {piece + 1}\n".encode(), "text/plain", str(piece), artifact=report))
    return "done"


@agent.skill(id="refuse")
async def refuse(input: Part, task: TaskContext) -> None:  # noqa: A002
    """Want nothing of it."""
    task.reject("Not today.")


if __name__ == "__main__":
    sys.exit(run_agent(agent))
