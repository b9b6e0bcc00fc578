"""Pages of tasks."""

import pytest
from a2a.types import a2a_pb2 as a2a
from a2a.utils.errors import InvalidParamsError
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.agent.v1 import agent_pb2 as pb
from mesh.errors import InvalidInput
from services.gateway.web.a2a.listing import take_page


def task(number, seconds):
    made = pb.Task(id=f"t{number}")
    made.update_time.FromSeconds(seconds)
    return made


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 7))
def test_pages_together_are_all_tasks_newest_first(times, size):
    tasks = [task(number, seconds) for number, seconds in enumerate(times)]
    seen, token = [], ""
    while True:
        page, token, total = take_page(tasks, a2a.ListTasksRequest(page_size=size, page_token=token))
        assert total == len(tasks)
        assert len(page) <= size
        seen += page
        if not token:
            break
    assert sorted(it.id for it in seen) == sorted(it.id for it in tasks)
    moments = [it.update_time.seconds for it in seen]
    assert moments == sorted(moments, reverse=True)


def test_what_is_new_between_two_pages_neither_repeats_nor_hides_others():
    tasks = [task(number, number) for number in range(6)]
    first, token, _ = take_page(tasks, a2a.ListTasksRequest(page_size=3))
    second, _, _ = take_page([*tasks, task(9, 9)], a2a.ListTasksRequest(page_size=3, page_token=token))
    assert [it.id for it in (*first, *second)] == ["t5", "t4", "t3", "t2", "t1", "t0"]


def test_only_what_has_changed_since_is_told():
    request = a2a.ListTasksRequest()
    request.status_timestamp_after.FromSeconds(3)
    page, _, total = take_page([task(number, number) for number in range(5)], request)
    assert ([it.id for it in page], total) == (["t4", "t3"], 2)


def test_sizes_and_tokens_that_are_none_are_refused():
    for size in (0, 101, -1):
        with pytest.raises(InvalidParamsError):
            take_page([], a2a.ListTasksRequest(page_size=size))
    with pytest.raises(InvalidInput):
        take_page([], a2a.ListTasksRequest(page_token="x"))
