"""States of tasks: which of them are the last, and in which an agent waits."""

from agentmesh.agent.v1 import agent_pb2 as pb

_ENDED = frozenset(
    (pb.TASK_STATE_COMPLETED, pb.TASK_STATE_FAILED, pb.TASK_STATE_CANCELED, pb.TASK_STATE_REJECTED),
)
_WAITING = frozenset((pb.TASK_STATE_INPUT_REQUIRED, pb.TASK_STATE_AUTH_REQUIRED))


def has_ended(state: int) -> bool:
    """Whether nothing comes after it."""
    return state in _ENDED


def is_waiting(state: int) -> bool:
    """Whether the agent waits for its submitter."""
    return state in _WAITING
