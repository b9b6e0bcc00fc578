"""JSON queries by jq, each in a process of its own: a jq program can run for ever or fill the memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue

from services.tool_server import InvalidArgument, Result

__all__ = ["QueryResult", "query_json"]

MAX_DOCUMENT = 4_000_000
MAX_RESULTS = 1_000
MAX_OUTPUT = 1_000_000
SECONDS = 5

_WORKER = Path(__file__).with_name("jq_worker.py")


class QueryResult(Result):
    """What the query gave, in order; `is_cut` tells that there was more than the limits allow."""

    results: list[JsonValue]
    is_cut: bool


def query_json(
    document: Annotated[str, Field(max_length=MAX_DOCUMENT, description="the JSON document, as text")],
    query: Annotated[
        str, Field(min_length=1, max_length=10_000, description="a jq program, for example .items[].name")
    ],
) -> QueryResult:
    """Query a JSON document with jq. At most 1000 results and 1 MB of them come back; a query may take 5 seconds."""
    try:
        json.loads(document)
    except (ValueError, RecursionError) as err:
        raise InvalidArgument("document", f"it is not JSON: {err}.", "Send one JSON value.") from err
    request = json.dumps(
        {"document": document, "query": query, "results": MAX_RESULTS, "output": MAX_OUTPUT, "seconds": SECONDS}
    )
    command = [sys.executable, "-I", str(_WORKER)]
    try:
        # No environment: jq programs can read it.
        done = subprocess.run(
            command,
            input=request.encode(),
            capture_output=True,
            timeout=SECONDS + 1,
            check=False,
            env={},
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as err:
        raise _too_long() from err
    try:
        answer = json.loads(done.stdout)
    except ValueError as err:
        # Killed by its limits: of CPU time, or of memory.
        raise _too_long() from err
    if "error" in answer:
        raise InvalidArgument(answer["field"], str(answer["error"]), "See the manual of jq.")
    return QueryResult(results=answer["results"], is_cut=answer["is_cut"])


def _too_long() -> InvalidArgument:
    return InvalidArgument(
        "query",
        f"it needs more than {SECONDS} seconds or more memory than it may have.",
        "Make it simpler, or limit it with limit(10; ...).",
    )
