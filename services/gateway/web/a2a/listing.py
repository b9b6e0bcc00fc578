"""Pages of ListTasks: newest change first, as A2A wants it, over all instances of an agent.

A token names the last task of its page by time and id, not a count: what comes and goes meanwhile moves nothing.
"""

from collections.abc import Sequence

from a2a.types import a2a_pb2 as a2a
from a2a.utils.task import (
    ListTasksCursor,
    decode_list_tasks_cursor,
    encode_list_tasks_cursor,
    validate_page_size,
)

from agentmesh.agent.v1 import agent_pb2 as pb
from mesh.errors import InvalidInput

_PAGE = 50


def page_size_of(request: a2a.ListTasksRequest) -> int:
    """The size that is asked for; raises the SDK's InvalidParamsError for one out of 1 to 100."""
    if not request.HasField("page_size"):
        return _PAGE
    validate_page_size(request.page_size)
    return request.page_size


def take_page(tasks: Sequence[pb.Task], request: a2a.ListTasksRequest) -> tuple[list[pb.Task], str, int]:
    """The tasks of the page, the token of the next one ("" when there is none), and how many there are in all.

    Raises InvalidInput for a token that is none.
    """
    since = request.status_timestamp_after.ToNanoseconds() if request.HasField("status_timestamp_after") else None
    fitting = [task for task in tasks if since is None or task.update_time.ToNanoseconds() >= since]
    fitting.sort(key=lambda task: _cursor(task).sort_key(), reverse=True)
    total = len(fitting)
    if request.page_token:
        cursor = decode_list_tasks_cursor(request.page_token)
        if cursor is None:
            raise InvalidInput("This is no token of a page.", field="page_token", fix="Send the one you were given.")
        fitting = [task for task in fitting if _cursor(task).sort_key() < cursor.sort_key()]
    size = page_size_of(request)
    page = fitting[:size]
    token = encode_list_tasks_cursor(_cursor(page[-1])) if len(fitting) > size else ""
    return page, token, total


def _cursor(task: pb.Task) -> ListTasksCursor:
    return ListTasksCursor(task.update_time.ToNanoseconds(), task.id)
