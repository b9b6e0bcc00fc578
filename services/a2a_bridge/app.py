"""Wires the bridge."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx
from a2a.client import A2ACardResolver, Client, ClientConfig, ClientFactory
from a2a.client.errors import A2AClientError
from a2a.types import a2a_pb2 as a2a

from mesh.agent import serve
from mesh.runtime import Backoff, Stop
from mesh.telemetry import get_logger
from services.a2a_bridge.proxy import build_agent
from services.a2a_bridge.settings import BridgeSettings

_BINDINGS = ["JSONRPC", "HTTP+JSON"]
_CONNECT = 10.0
_SILENCE = 300.0
"""Seconds without a byte after which a stream counts as broken; it is taken up again then."""

_log = get_logger(__name__)


async def run(settings: BridgeSettings, stop: Stop) -> None:
    """Serve until `stop` is set: from when the other agent has told its card. Raises MeshError for a bad setting."""
    timeout = httpx.Timeout(_SILENCE, connect=_CONNECT)
    async with httpx.AsyncClient(headers=dict(settings.headers), timeout=timeout, trust_env=False) as http:
        card = await _read_card(settings, http, stop)
        if card is None:
            return
        async with _open_client(card, http) as client:
            await serve(build_agent(settings.service, card, client), stop)


async def _read_card(settings: BridgeSettings, http: httpx.AsyncClient, stop: Stop) -> a2a.AgentCard | None:
    """The card, however late the other agent is; None when the bridge is to stop before."""
    parts = urlsplit(settings.card_url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    resolver = A2ACardResolver(http, f"{parts.scheme}://{parts.netloc}", path)
    backoff = Backoff(0.1, 15.0)
    while not stop.is_set:
        try:
            return await resolver.get_agent_card()
        except (A2AClientError, httpx.HTTPError, ValueError) as err:
            _log.warning("card_not_read", url=settings.card_url, error=str(err))
        try:
            async with asyncio.timeout(backoff.next()):
                await stop.wait()
        except TimeoutError:
            continue
    return None


@asynccontextmanager
async def _open_client(card: a2a.AgentCard, http: httpx.AsyncClient) -> AsyncIterator[Client]:
    config = ClientConfig(httpx_client=http, supported_protocol_bindings=_BINDINGS)
    async with ClientFactory(config).create(card) as client:
        yield client
