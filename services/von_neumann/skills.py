"""The agent and its skills."""

import mesh
from mesh.agent import Agent, AgentLimits, TaskContext
from services.von_neumann.computing import Workers
from services.von_neumann.models import (
    Game,
    GameResult,
    LinearProgram,
    LinearResult,
    Model,
    Simulation,
    SimulationResult,
    SymbolicResult,
    SymbolicTask,
)
from services.von_neumann.valuation import value_project

NAME = "von-neumann"

_LIMITS = AgentLimits(max_concurrent_tasks=4, max_queued_tasks=32, max_task_seconds=60.0)


def build_agent(workers: Workers) -> Agent:
    """The agent, ready to be served."""
    agent = Agent(
        name=NAME,
        version=mesh.__version__,
        description="Computation and decision analysis: symbolic math, linear programs, games, Monte Carlo, valuation.",
        limits=_LIMITS,
    )

    async def run(job: str, given: Model, task: TaskContext) -> dict[str, object]:
        return await workers.run(job, given.model_dump(), task.report)

    @agent.skill(id="symbolic-math", name="Symbolic mathematics", tags=("math",))
    async def symbolic_math(input: SymbolicTask, task: TaskContext) -> SymbolicResult:  # noqa: A002
        """Simplify, solve, differentiate, integrate, take limits and series of an expression, or evaluate it."""
        return SymbolicResult.model_validate(await run("symbolic-math", input, task))

    @agent.skill(id="linear-program", name="Linear programming", tags=("optimization",))
    async def linear_program(input: LinearProgram, task: TaskContext) -> LinearResult:  # noqa: A002
        """Minimize or maximize a linear objective under linear constraints, with whole numbers if need be."""
        return LinearResult.model_validate(await run("linear-program", input, task))

    @agent.skill(id="matrix-game", name="Matrix games", tags=("games",))
    async def matrix_game(input: Game, task: TaskContext) -> GameResult:  # noqa: A002
        """Find equilibria of a game of two players. Of a degenerate game that is not zero-sum some may be missing."""
        return GameResult.model_validate(await run("matrix-game", input, task))

    @agent.skill(id="monte-carlo", name="Monte Carlo simulation", tags=("risk", "statistics"))
    async def monte_carlo(input: Simulation, task: TaskContext) -> SimulationResult:  # noqa: A002
        """Sample an expression over random variables: mean, spread, quantiles, probability of a threshold."""
        return SimulationResult.model_validate(await run("monte-carlo", input, task))

    agent.skill(id="project-valuation", name="Project valuation", tags=("finance",))(value_project)
    return agent
