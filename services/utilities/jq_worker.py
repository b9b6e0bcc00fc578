"""Runs one jq program under limits: a request on stdin, an answer on stdout. A script, so that it starts fast."""

import json
import resource
import sys

_MEMORY = 512 << 20


def main() -> None:
    """Read {"document", "query", "results", "output", "seconds"}; write {"results", "is_cut"} or {"error", "field"}."""
    request = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"]))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import jq

    try:
        program = jq.compile(request["query"])
    except ValueError as err:
        _answer({"error": str(err).strip(), "field": "query"})
        return
    results: list[object] = []
    size, is_cut = 0, False
    try:
        for result in program.input_text(request["document"]):
            size += len(json.dumps(result))
            if len(results) >= request["results"] or size > request["output"]:
                is_cut = True
                break
            results.append(result)
    except ValueError as err:
        _answer({"error": str(err).strip(), "field": "query"})
        return
    _answer({"results": results, "is_cut": is_cut})


def _answer(value: dict[str, object]) -> None:
    json.dump(value, sys.stdout)


if __name__ == "__main__":
    main()
