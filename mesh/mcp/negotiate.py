"""Finds out which protocol era a server speaks, and opens the session in it.

The modern era (2026-07-28) is probed with `server/discover`; whatever is not clear evidence of it means the handshake
era, as the specification's backward-compatibility rules say
(https://modelcontextprotocol.io/specification/2026-07-28/basic/versioning). The SDK's own `negotiate_auto` does the
same, but waits 10 s for a server that ignores what it does not know, and asks again after every restart.
"""

import asyncio
from enum import Enum

from mcp.client.session import ClientSession
from mcp.shared.exceptions import MCPError
from mcp_types import UNSUPPORTED_PROTOCOL_VERSION, DiscoverResult, UnsupportedProtocolVersionErrorData
from mcp_types.version import LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError


class Era(Enum):
    """How requests are made: by themselves, or within a session that a handshake opened."""

    MODERN = "modern"
    HANDSHAKE = "handshake"


async def negotiate(session: ClientSession, *, last_era: Era | None, probe_timeout: float) -> Era:
    """Open the session; `last_era` is what the same server spoke before it was restarted, if that is known.

    Raises MCPError when the server refuses both eras, RuntimeError when it names a version that nobody knows, and
    pydantic's ValidationError when its answer is no answer. Has no bound of its own beyond the probe's.
    """
    if last_era is Era.HANDSHAKE:
        return await _handshake(session)
    version = LATEST_MODERN_VERSION
    for _ in range(2):
        try:
            async with asyncio.timeout(probe_timeout):
                raw = await session.send_discover(version)
            found = DiscoverResult.model_validate(raw)
        except MCPError as err:
            mutual = _mutual_version(err)
            if mutual is not None and mutual != version:
                version = mutual
                continue
            return await _handshake(session)
        except (TimeoutError, ValidationError):
            return await _handshake(session)
        if not any(known in found.supported_versions for known in MODERN_PROTOCOL_VERSIONS):
            return await _handshake(session)
        session.adopt(found)
        return Era.MODERN
    return await _handshake(session)


async def _handshake(session: ClientSession) -> Era:
    try:
        await session.initialize()
    except MCPError as err:
        # A modern server that was too slow for the probe says so now: it is bound to the modern era already.
        version = _mutual_version(err)
        if version is None:
            raise
        session.adopt(DiscoverResult.model_validate(await session.send_discover(version)))
        return Era.MODERN
    return Era.HANDSHAKE


def _mutual_version(err: MCPError) -> str | None:
    """Return the newest modern version that a -32022 error offers and this client knows."""
    if err.code != UNSUPPORTED_PROTOCOL_VERSION:
        return None
    try:
        supported = UnsupportedProtocolVersionErrorData.model_validate(err.error.data).supported
    except ValidationError:
        return None
    mutual = [version for version in MODERN_PROTOCOL_VERSIONS if version in supported]
    return mutual[-1] if mutual else None
