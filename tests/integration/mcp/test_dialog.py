"""Dialog: a request with all that belongs to it, to servers of either era."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

pytestmark = pytest.mark.asyncio(loop_scope="module")

ELICITS = {"elicitation": {"form": {}}}
LEVEL = "io.modelcontextprotocol/logLevel"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def old(open_bridge: Any, server_command: Any) -> AsyncIterator[Any]:
    async with open_bridge(server_command("raw_server"), max_sessions=8) as bridge:
        yield bridge


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def modern(open_bridge: Any, server_command: Any) -> AsyncIterator[Any]:
    async with open_bridge(server_command("raw_server", "--modern")) as bridge:
        yield bridge


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["old", "modern"])
async def bridge(request: Any, old: Any, modern: Any) -> Any:
    return {"old": old, "modern": modern}[request.param]


async def test_progress_has_the_callers_token(bridge: Any) -> None:
    talk = await bridge.tool_dialog("progress", progressToken="mine")
    told = [await talk.next() for _ in range(3)]
    assert [piece.method for piece in told] == ["notifications/progress"] * 3
    assert [piece.said for piece in told] == [{"progressToken": "mine", "progress": n} for n in range(3)]
    assert (await talk.text())["progressToken"] != "mine"


async def test_without_a_token_there_is_no_progress(bridge: Any) -> None:
    talk = await bridge.tool_dialog("progress")
    assert "progressToken" not in await talk.text()


async def test_log_messages_come_from_the_level_on_that_was_asked_for(bridge: Any) -> None:
    talk = await bridge.tool_dialog("log", key="logs", meta={LEVEL: "info"})
    told = [await talk.next() for _ in range(2)]
    assert [(piece.method, piece.said["data"]) for piece in told] == [
        ("notifications/message", "info"),
        ("notifications/message", "error"),
    ]
    assert await talk.text() == "logged"
    assert await (await bridge.tool_dialog("log", key="logs")).text() == "logged"


async def test_cancelling_the_dialog_cancels_the_request(bridge: Any, eventually: Any) -> None:
    talk = await bridge.tool_dialog("hang", key="c", progressToken=1)
    assert (await talk.next()).method == "notifications/progress"
    talk.call.cancel()

    async def is_cancelled() -> bool:
        state = await bridge.tool("state", key="c")
        return set(map(str, state["cancelled"])) >= set(state["running"]) != set()

    await eventually(is_cancelled)


async def test_an_error_of_the_server_is_the_outcome(bridge: Any) -> None:
    outcome = await (await bridge.tool_dialog("refuse")).next()
    assert (outcome.kind, outcome.said) == ("error", {"code": -32099, "message": "no", "data": {"why": [1.0]}})


async def test_a_crash_is_unavailable_with_what_the_server_said(bridge: Any) -> None:
    talk = await bridge.tool_dialog("crash")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await talk.next()
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "the disk is full" in failed.value.details()
    assert "'fixture'" in failed.value.details()
    assert await bridge.tool("ok", {"n": 1}) == {"n": 1}


async def test_changes_are_told_to_those_who_listen(bridge: Any, eventually: Any) -> None:
    wished = {"toolsListChanged": True, "resourceSubscriptions": ["x://1"], "promptsListChanged": True}
    talk = await bridge.dialog("subscriptions/listen", {"notifications": wished})
    first = await talk.next()
    assert first.method == "notifications/subscriptions/acknowledged"
    assert first.said["notifications"]["toolsListChanged"] is True
    assert "io.modelcontextprotocol/subscriptionId" not in first.said.get("_meta", {})
    assert await bridge.tool("change") == "changed"
    second = await talk.next()
    assert second.method == "notifications/tools/list_changed"
    assert "io.modelcontextprotocol/subscriptionId" not in second.said.get("_meta", {})
    talk.call.cancel()


async def test_a_modern_server_may_end_a_subscription(modern: Any) -> None:
    talk = await modern.dialog("subscriptions/listen", {"notifications": {}})
    assert (await talk.next()).method == "notifications/subscriptions/acknowledged"
    assert await modern.tool("end_listens") == "ended"
    outcome = await talk.next()
    assert outcome.said == {"resultType": "complete", "_meta": {}}


@pytest.mark.parametrize(
    ("tool", "method"),
    [("elicit", "elicitation/create"), ("sample", "sampling/createMessage"), ("roots", "roots/list")],
)
async def test_a_server_of_the_handshake_era_asks_and_is_answered(old: Any, tool: str, method: str) -> None:
    talk = await old.tool_dialog(tool, can={"elicitation": {}, "sampling": {}, "roots": {}})
    question = await talk.next()
    assert (question.kind, question.method) == ("question", method)
    await talk.answer(question.id, result={"answer": [1.50]})
    assert await talk.text() == {"result": {"answer": [1.5]}}


async def test_a_question_can_be_refused(old: Any) -> None:
    talk = await old.tool_dialog("elicit", can=ELICITS)
    question = await talk.next()
    await talk.answer(question.id, error={"code": -1, "message": "not now"})
    assert await talk.text() == {"error": {"code": -1, "message": "not now"}}


async def test_a_question_can_be_taken_back(old: Any) -> None:
    talk = await old.tool_dialog("take_back", can=ELICITS)
    question = await talk.next()
    taken_back = await talk.next()
    assert (taken_back.method, taken_back.said) == ("notifications/cancelled", {"requestId": question.id})
    assert await talk.text() == "taken back"


async def test_a_client_that_cannot_be_asked_is_not(old: Any) -> None:
    said = await (await old.tool_dialog("elicit")).text()
    assert said["error"]["code"] == -32601
    assert await (await old.tool_dialog("ping")).text() == {"result": {}}


async def test_a_session_knows_the_client_and_what_it_can(old: Any) -> None:
    talk = await old.tool_dialog("state", can=ELICITS, key="hello")
    hello = (await talk.text())["hello"]
    assert hello["capabilities"] == ELICITS
    assert hello["clientInfo"] == {"name": "host", "version": "7"}


async def test_dialogs_that_can_be_asked_have_sessions_of_their_own_and_leave_them_to_the_next(old: Any) -> None:
    first, second = [await old.tool_dialog("elicit", can=ELICITS, key="two") for _ in range(2)]
    asked = [await first.next(), await second.next()]
    pids = []
    for talk, question in zip((first, second), asked, strict=True):
        await talk.answer(question.id, result={})
        assert await talk.text() == {"result": {}}
    for _ in range(2):
        pids.append(await (await old.tool_dialog("pid", can=ELICITS, key="two")).text())
    assert pids[0] == pids[1] == await old.tool("pid", can=ELICITS, key="two")


async def test_a_dialog_that_is_given_up_refuses_its_questions(old: Any, eventually: Any) -> None:
    talk = await old.tool_dialog("elicit", can=ELICITS, key="left")
    assert (await talk.next()).kind == "question"
    talk.call.cancel()

    async def is_refused() -> bool:
        return (await old.tool("state", can=ELICITS, key="left"))["asked"] == {}

    await eventually(is_refused)


@pytest.mark.parametrize("bad", ["answer first", "request twice", "answer is no object"])
async def test_messages_out_of_turn_are_refused(old: Any, bad: str) -> None:
    from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb

    talk = await old.tool_dialog("elicit", can=ELICITS, key=bad)
    if bad == "answer first":
        talk.call.cancel()
        talk.call = old.stub.Dialog(timeout=10)
        await talk.answer("1", result={})
    elif bad == "request twice":
        await talk.next()
        await talk.call.write(pb.DialogRequest(request=pb.AskRequest(method="tools/list")))
    else:
        question = await talk.next()
        await talk.call.write(pb.DialogRequest(answer=pb.DialogAnswer(id=question.id, result=b"[]")))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        with contextlib.suppress(AssertionError):
            await talk.next()
            await asyncio.wait_for(talk.call.code(), 10)
            await talk.next()
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
