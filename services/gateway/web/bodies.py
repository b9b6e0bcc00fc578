"""Bodies of requests: bounded, and what they are said to be."""

import json
from typing import Any

from starlette.requests import Request

from mesh.errors import InvalidInput


async def read_body(request: Request, most: int) -> bytes:
    """All of a body; raises InvalidInput when it has more than `most` bytes."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise InvalidInput("The body is too long.", field="body", fix=f"Send at most {most} bytes.")
    return bytes(body)


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object; raises InvalidInput for anything else."""
    try:
        facts = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise InvalidInput("The body is no JSON.", field="body", fix="Send a JSON object.") from err
    if not isinstance(facts, dict):
        raise InvalidInput("The body is no JSON object.", field="body", fix="Send a JSON object.")
    return facts
