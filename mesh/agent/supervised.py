"""Runs code of an agent's author, which may fail in any way."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc

from mesh.errors import Internal, MeshError
from mesh.rpc import error_from_rpc
from mesh.telemetry import get_logger

_log = get_logger(__name__)


async def supervise_handler(work: Awaitable[Any], limit: asyncio.Timeout, skill: str) -> tuple[Any, MeshError | None]:
    """The result of `work`, or the error that a caller is told; an unexpected one is logged. `limit` ends it.

    Raises CancelledError only. When `limit` has expired the error is of no meaning.
    """
    try:
        async with limit:
            return await work, None
    except Exception as err:  # noqa: BLE001 - the supervisor: a handler's error must not end the agent
        return None, _explain(err, limit, skill)


def _explain(err: Exception, limit: asyncio.Timeout, skill: str) -> MeshError:
    while isinstance(err, ExceptionGroup) and len(err.exceptions) == 1:
        err = err.exceptions[0]
    if isinstance(err, MeshError):
        return err
    if isinstance(err, grpc.aio.AioRpcError):
        return error_from_rpc(err)
    if not limit.expired():
        _log.error("skill_failed", skill=skill, exc_info=err)
    return Internal("The skill met an unexpected error.", reason="SKILL_FAILED", fix="The agent's log has the details.")
