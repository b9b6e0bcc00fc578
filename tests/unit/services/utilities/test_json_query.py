import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from services.tool_server import InvalidArgument
from services.utilities.json_query import JsonQueries, QueryLimits

Call = Callable[..., Awaitable[dict[str, Any]]]
Refusal = Callable[..., Awaitable[str]]
ENDLESS = "last(repeat(.))"


def workers() -> list[str]:
    """The ids of the worker processes of this process, zombies included."""
    children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    return [child for some in children for child in some if "jq_worker" in _describe(child)]


def _describe(pid: str) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return "jq_worker (zombie)" if ") Z " in stat else Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@pytest.mark.parametrize(
    ("document", "query", "results"),
    [
        ('{"a": [1, 2]}', ".a[]", [1, 2]),
        ("[3, 1]", "sort", [[1, 3]]),
        ('{"items": [{"n": "x", "v": 1}, {"n": "y", "v": 5}]}', ".items[] | select(.v > 2) | .n", ["y"]),
        ('"é☃"', "., length", ["é☃", 2]),
        ("null", "empty", []),
        ("{}", ".missing", [None]),
    ],
)
async def test_known_answer(call: Call, document: str, query: str, results: list[Any]) -> None:
    assert await call("query_json", document=document, query=query) == {"results": results, "is_cut": False}


@pytest.mark.parametrize(
    ("document", "query", "words"),
    [
        ('{"a": }', ".", "document: it is not JSON: Expecting value: line 1 column 7 (char 6). Send one JSON value."),
        ('{\n"a": 1,\n}', ".", "line 3 column 1"),
        ("", ".", "document: it is not JSON: Expecting value: line 1 column 1"),
        ("1 2", ".", "document: it is not JSON: Extra data: line 1 column 3"),
        ("[NaN]", ".", "document: it is not JSON: NaN is no JSON number"),
        ("\ufeff{}", ".", "document: it is not JSON: Unexpected UTF-8 BOM"),
        ("\ud800", ".", "document: input should be a valid string"),
        ("[" * 5_000 + "]" * 5_000, ".", "document: it is nested too deeply"),
        ("{}", ".a[", "query: it does not compile: syntax error, unexpected end of file at <top-level>, line 1"),
        ("{}", "foo", "query: it does not compile: foo/0 is not defined"),
        ("{}", "error('x')", "query: it does not compile:"),
        ("{}", 'error("x")', "query: it failed: x."),
        ("[1]", ".a", 'query: it failed: Cannot index array with string ("a")'),
        ("null", "input", "query: it failed: input has nothing more to give"),
        ("[" * 150 + "]" * 150, ".", "query: a result is nested deeper than 100 levels"),
        ("null", '"x" * 1000000000', "query: it needs more than 512 MB of memory, or nests without end."),
        ("null", "reduce range(100000) as $i (null; [.])", "query: "),
        ("null", "." * 10_001, "query: 10001 characters; at most 10000"),
        ("null", "", "query: string should have at least 1 character"),
        (" " * 4_000_001, ".", "document: 4000001 characters; at most 4000000"),
    ],
)
async def test_bad_input_is_answered_with_field_cause_and_fix(
    refusal: Refusal, document: str, query: str, words: str
) -> None:
    text = await refusal("query_json", document=document, query=query)
    assert words in text
    assert len(text) < 1_000


async def test_what_nests_as_deep_as_allowed_comes_back(call: Call) -> None:
    document = "[" * 100 + "]" * 100
    found = await call("query_json", document=document, query=".")
    assert json.dumps(found["results"][0]) == document


@pytest.mark.parametrize("query", ["repeat(1)", 'repeat("x" * 999)'])
async def test_more_results_than_allowed_are_cut_and_said_to_be(call: Call, query: str) -> None:
    found = await call("query_json", document="1", query=query)
    assert found["is_cut"] is True
    assert len(json.dumps(found["results"])) <= 1_010_000
    assert 990 <= len(found["results"]) <= 1_000


async def test_a_query_cannot_read_the_environment(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "1")
    found = await call("query_json", document="null", query="env, $ENV")
    assert all("SECRET_OF_THE_SERVER" not in names for names in found["results"])


@pytest.mark.parametrize("name", ["secret", "absent"])
async def test_a_query_cannot_read_files_nor_learn_which_there_are(refusal: Refusal, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.json").write_text('{"key": "hidden"}')
    (tmp_path / "secret.jq").write_text("def key: 1;")
    where = json.dumps(str(tmp_path))
    for query in (f'import "{name}" as $x {{search: {where}}}; $x', f'include "{name}" {{search: {where}}}; .'):
        text = await refusal("query_json", document="null", query=query)
        assert text == "query: it does not compile: it cannot import files. See the manual of jq."


async def test_queries_that_never_end_are_ended_and_leave_nothing_behind() -> None:
    queries = JsonQueries(QueryLimits(seconds=1))
    endless = (ENDLESS, "def f: f; f", 'last(repeat("x" * 1000 | stderr))')
    ended = await asyncio.gather(*(queries.query_json("1", query) for query in endless), return_exceptions=True)
    for error in ended:
        assert isinstance(error, InvalidArgument)
        assert str(error).startswith("query: it needs more than 1 seconds.")
    assert not workers()
    assert (await queries.query_json("[1, 2]", "add")).results == [3]


async def test_a_query_that_fills_the_memory_is_ended() -> None:
    queries = JsonQueries(QueryLimits(memory=128 << 20))
    with pytest.raises(InvalidArgument, match="query: it needs more than 128 MB of memory"):
        await queries.query_json("1", "[range(1e9)] | length")
    assert not workers()


async def test_a_cancelled_query_ends_its_process() -> None:
    queries = JsonQueries(QueryLimits(seconds=60))
    async with asyncio.timeout(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queries.query_json, "1", ENDLESS)
            while not workers():
                await asyncio.sleep(0.01)
            tasks.cancel_scope.cancel()
    assert not workers()


async def test_queries_beyond_the_allowed_number_wait_for_their_turn() -> None:
    queries = JsonQueries(at_once=2)
    most = 0
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(queries.query_json(str(number), ".")) for number in range(8)]
        while not all(query.done() for query in running):
            most = max(most, len(workers()))
            await asyncio.sleep(0.001)
    assert [query.result().results for query in running] == [[number] for number in range(8)]
    assert 1 <= most <= 2
