"""What an agent accepts and keeps at most."""

from dataclasses import dataclass, fields

from mesh.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """The limits of one agent; the first three are told in its card.

    Tasks beyond `max_concurrent_tasks` wait, those beyond `max_queued_tasks` are refused. Ended tasks are kept until
    there are more than `kept_tasks`, or `kept_bytes` of output, or they are older than `kept_seconds`. Reports of
    progress that come faster than one in `report_interval` seconds are merged. A task waits for an answer of its
    submitter for `max_wait_seconds`. At the end of the program running tasks
    get `drain_seconds`.
    """

    max_concurrent_tasks: int = 8
    max_input_bytes: int = 1 << 20
    max_task_seconds: float = 600.0
    max_queued_tasks: int = 64
    max_output_bytes: int = 4 << 20
    max_watchers: int = 128
    kept_tasks: int = 1000
    kept_seconds: float = 3600.0
    kept_bytes: int = 32 << 20
    report_interval: float = 0.05
    max_wait_seconds: float = 3600.0
    drain_seconds: float = 20.0

    def __post_init__(self) -> None:
        may_be_zero = ("max_queued_tasks", "report_interval", "drain_seconds", "kept_tasks")
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (value == 0 and field.name not in may_be_zero):
                raise InvalidInput(f"{value!r} is no limit.", field=f"limits.{field.name}", fix="Give a positive one.")
