"""Runs one jq program under limits: a request on stdin, an answer on stdout. A script, so that it starts fast.

A request is a line of JSON, {"query", "results", "output", "depth", "seconds", "memory"}, and then the document. The
answer is {"results", "is_cut"}, or {"error", "field"} for what the caller must change. No answer: a limit ended it.
"""

import json
import re
import resource
import sys

_SHOWN = 500
# Also so that nobody learns which files there are.
_FILE = re.compile(r"^jq: error(?:: module not found| loading)", re.MULTILINE)


def main() -> None:
    """Answer one request."""
    request = json.loads(sys.stdin.buffer.readline())
    document = sys.stdin.buffer.read().decode()
    import jq

    _limit(request["seconds"], request["memory"])
    try:
        json.loads(document, parse_constant=_refuse_constant)
    except RecursionError:
        _refuse("document", "it is nested too deeply")
        return
    except ValueError as err:
        _refuse("document", f"it is not JSON: {err}")
        return
    try:
        program = jq.compile(request["query"])
    except ValueError as err:
        reason = "it cannot import files" if _FILE.search(str(err)) else _shorten(err)
        _refuse("query", f"it does not compile: {reason}")
        return
    try:
        _run(iter(program.input_text(document)), request)
    except ValueError as err:
        reason = "input has nothing more to give" if str(err) == "break" else _shorten(err)
        _refuse("query", f"it failed: {reason}")


def _limit(seconds: int, memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # No new file can be opened: `import "x" as $x {search: "/any/where"}` would read the files of the host.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def _run(found: object, request: dict[str, int]) -> None:
    results: list[str] = []
    size, is_cut = 0, False
    for result in found:  # type: ignore[attr-defined]
        if _is_deeper_than(request["depth"], result):
            _refuse(
                "query", f"a result is nested deeper than {request['depth']} levels; select a part of it, or tojson"
            )
            return
        text = json.dumps(result)
        size += len(text)
        if len(results) >= request["results"] or size > request["output"]:
            is_cut = True
            break
        results.append(text)
    sys.stdout.write(f'{{"results": [{", ".join(results)}], "is_cut": {json.dumps(is_cut)}}}')


def _is_deeper_than(limit: int, value: object) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _refuse(field: str, error: str) -> None:
    json.dump({"error": error, "field": field}, sys.stdout)


def _shorten(err: ValueError) -> str:
    lines = [line for line in str(err).splitlines() if not line.endswith(("compile error", "compile errors"))]
    text = " ".join("\n".join(lines).split()).removeprefix("jq: error: ")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


if __name__ == "__main__":
    main()
