"""Consul's HTTP API through py-consul: every request bounded, every failure a MeshError.

Only what Consul 1.8 has is used. py-consul hides status and headers behind its exceptions; `explain` reads them back.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from consul.aio import Consul
from consul.callback import CB
from consul.exceptions import ACLDisabled, ACLPermissionDenied, BadRequest, ClientError, ConsulException
from consul.exceptions import Timeout as ConsulTimeout

from mesh.discovery.checks_parser import ChecksParser
from mesh.errors import FailedPrecondition, InvalidInput, MeshError, PermissionDenied, Unavailable
from mesh.model import Address

REQUEST_TIMEOUT = 5.0
# How long one blocking query waits for news. Consul adds up to 1/16. It also bounds how long a Consul that was stopped
# without closing its connections passes for alive.
WAIT = 10.0

_CONNECTIONS = 8
_MAX_EXCERPT = 200
# Checks of members and of nodes; a node's own checks (serfHealth, maintenance) decide on its instances too.
_MESH_CHECKS = '"agentmesh" in ServiceTags or ServiceID == ""'

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class ConsulEndpoint:
    """Where Consul's HTTP API is, and with which ACL token it is asked."""

    address: Address
    token: str = ""
    scheme: str = "http"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"

    def __repr__(self) -> str:
        return f"ConsulEndpoint({self})"


class ConsulClient:
    """The requests that the mesh makes. Made by `open_consul`."""

    def __init__(self, consul: Consul, endpoint: ConsulEndpoint) -> None:
        self._consul = consul
        self._parser = ChecksParser()
        self.endpoint = endpoint

    @property
    def consul(self) -> Consul:
        """py-consul itself, for requests made through `ask`."""
        return self._consul

    async def register(self, name: str, **definition: Any) -> None:
        """PUT /v1/agent/service/register, replacing checks that are not mentioned."""
        answer = await self.ask(
            lambda: self._consul.agent.service.register(name, replace_existing_checks=True, **definition)
        )
        if answer is not True:
            raise not_consul(self.endpoint, "it does not know /v1/agent/service/register")

    async def deregister(self, instance_id: str) -> None:
        """PUT /v1/agent/service/deregister; an unknown id is no error."""
        await self.ask(lambda: self._consul.agent.service.deregister(_escaped(instance_id)))

    async def is_registered(self, instance_id: str) -> bool:
        """GET /v1/agent/service/ID."""
        answer = await self._get(f"/v1/agent/service/{_escaped(instance_id)}")
        if answer is not None and not (isinstance(answer, dict) and answer.get("ID") == instance_id):
            raise not_consul(self.endpoint, "its answer has another form")
        return answer is not None

    async def checks(self, index: int | None) -> tuple[int, list[Mapping[str, Any]]]:
        """GET /v1/health/state/any, members and nodes only; with an index it waits up to WAIT for a newer one."""
        bound = REQUEST_TIMEOUT if index is None else WAIT * 17 / 16 + REQUEST_TIMEOUT
        news = [("index", str(index)), ("wait", f"{WAIT:g}s")] if index else []
        headers = self._consul.prepare_headers()
        answer = await self.ask(
            lambda: self._consul.http.get(
                self._parse_checks, "/v1/health/state/any", params=[*news, ("filter", _MESH_CHECKS)], headers=headers
            ),
            timeout=bound,
        )
        return self._indexed(answer, list)

    def _parse_checks(self, response: Any) -> tuple[str, Any]:
        """What py-consul's own callback does, with a parser that remembers."""
        body: Any = CB.binary()(response)
        return response.headers.get("X-Consul-Index", ""), self._parser.parse(body)

    async def tags(self) -> Mapping[str, Sequence[str]]:
        """GET /v1/catalog/services: every service that the token may see, with its tags."""
        services: Mapping[str, Sequence[str]]
        _, services = self._indexed(await self.ask(self._consul.catalog.services), dict)
        return services

    async def health(self, service: str) -> list[Mapping[str, Any]]:
        """GET /v1/health/service/NAME, all instances."""
        entries: list[Mapping[str, Any]]
        _, entries = self._indexed(await self.ask(lambda: self._consul.health.service(service)), list)
        return entries

    async def agent_id(self) -> str:
        """GET /v1/agent/self: the node id of the agent that answers."""
        answer = await self._get("/v1/agent/self")
        try:
            return str(answer["Config"]["NodeID"])
        except (KeyError, TypeError) as err:
            raise not_consul(self.endpoint, "its answer has another form") from err

    async def reload(self) -> None:
        """PUT /v1/agent/reload."""
        if await self.ask(self._consul.agent.reload) is not True:
            raise not_consul(self.endpoint, "it does not know /v1/agent/reload")

    async def ask(self, request: Callable[[], Awaitable[_Answer]], *, timeout: float = REQUEST_TIMEOUT) -> _Answer:
        """Make one request of py-consul; raises MeshError for whatever goes wrong within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await request()
        except (ConsulException, aiohttp.ClientError, OSError, ValueError) as err:
            raise explain(self.endpoint, err) from err

    async def _get(self, path: str) -> Any:
        # py-consul's own agent.self() and agent.service_definition() forget the ACL token.
        headers = self._consul.prepare_headers()
        return await self.ask(lambda: self._consul.http.get(CB.json(), path, headers=headers))

    def _indexed(self, answer: Any, form: type) -> tuple[int, Any]:
        try:
            index, data = int(answer[0]), answer[1]
        except (TypeError, ValueError, IndexError) as err:
            raise not_consul(self.endpoint, "its index is not a number") from err
        if not isinstance(data, form):
            raise not_consul(self.endpoint, "its answer has another form")
        return index, data


@asynccontextmanager
async def open_consul(endpoint: ConsulEndpoint) -> AsyncIterator[ConsulClient]:
    """A client of Consul; nothing is sent before the first request. Closes its connections at the end."""
    consul = Consul(
        endpoint.address.host if ":" not in endpoint.address.host else f"[{endpoint.address.host}]",
        endpoint.address.port,
        scheme=endpoint.scheme,
        verify=endpoint.scheme == "https",
        connections_limit=_CONNECTIONS,
        # aiohttp's own default (300 s in all) is shorter than Consul's longest wait; ours is in `ask`.
        connections_timeout=WAIT * 2 + REQUEST_TIMEOUT,
    )
    # py-consul prefers CONSUL_HTTP_TOKEN to the token that it is given.
    consul.token = endpoint.token or None
    try:
        yield ConsulClient(consul, endpoint)
    finally:
        await consul.http.close()


def explain(endpoint: ConsulEndpoint, err: Exception) -> MeshError:
    """Say what a failed request means."""
    text = _excerpt(str(err))
    match err:
        case ACLPermissionDenied() | ACLDisabled():
            return denied(endpoint, text)
        case BadRequest() | ClientError():
            return _explain_refusal(endpoint, text)
        case ConsulTimeout() | TimeoutError():
            return Unavailable(
                f"Consul at {endpoint} does not answer in time.",
                reason="REGISTRY_TIMEOUT",
                fix="Look at its log; is the machine overloaded or is a firewall in between?",
            )
        case ConsulException() if re.match(r"5\d\d ", text):
            if "ermission denied" in text or "ACL not found" in text:
                return denied(endpoint, text)
            return Unavailable(
                f"Consul at {endpoint} cannot serve at the moment: {text}.",
                reason="REGISTRY_FAILED",
                fix="Look at its log.",
            )
        case aiohttp.InvalidURL() | aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return not_consul(endpoint, f"it does not speak HTTP as Consul does ({text or type(err).__name__})")
        case aiohttp.ClientSSLError():
            return FailedPrecondition(
                f"No TLS with {endpoint}: {text}.",
                reason="REGISTRY_TLS",
                fix="Is it http:// rather than https://, or is its CA missing on this machine (SSL_CERT_FILE)?",
            )
        case aiohttp.ClientError() | OSError():
            return Unavailable(
                f"Consul at {endpoint} cannot be reached: {_reason(err)}.",
                reason="REGISTRY_UNREACHABLE",
                fix="Is it running? Its address is set by CONSUL_HTTP_ADDR.",
            )
        case _:
            return not_consul(endpoint, text)


def not_consul(endpoint: ConsulEndpoint, detail: str) -> FailedPrecondition:
    """Something else than Consul answers at the address."""
    return FailedPrecondition(
        f"What answers at {endpoint} is not Consul: {detail}.",
        reason="REGISTRY_IS_NOT_CONSUL",
        fix="Set CONSUL_HTTP_ADDR to the HTTP address of a Consul agent, usually port 8500.",
    )


def denied(endpoint: ConsulEndpoint, detail: str) -> PermissionDenied:
    """Consul's ACL refuses the token."""
    who = "the ACL token of CONSUL_HTTP_TOKEN" if endpoint.token else "requests without an ACL token"
    return PermissionDenied(
        f"Consul at {endpoint} refuses {who}: {detail}.",
        reason="REGISTRY_DENIED",
        fix='Set CONSUL_HTTP_TOKEN to a token whose policy has service_prefix "" {policy = "write"}, '
        'node_prefix "" {policy = "read"}, agent_prefix "" {policy = "read"}, session_prefix "" {policy = "write"} and '
        'key_prefix "agentmesh/" {policy = "write"}.',
    )


def _explain_refusal(endpoint: ConsulEndpoint, text: str) -> MeshError:
    if re.search("HTTPS (server|port)", text):
        return FailedPrecondition(
            f"{endpoint} speaks HTTPS only.",
            reason="REGISTRY_TLS",
            fix=f"Set CONSUL_HTTP_ADDR to https://{endpoint.address}.",
        )
    if text.startswith("405"):
        return not_consul(endpoint, text)
    if text.startswith("429"):
        return Unavailable(
            f"Consul at {endpoint} takes no more requests: {text}.", reason="REGISTRY_BUSY", fix="Look at its limits."
        )
    return InvalidInput(f"Consul at {endpoint} does not take the request: {text}.", reason="REGISTRY_REFUSED")


def _reason(err: Exception) -> str:
    """The system's own words, without what aiohttp wraps around them."""
    cause = err.os_error if isinstance(err, aiohttp.ClientConnectorError) else err
    if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
        return os.strerror(cause.errno)
    return _excerpt(str(cause)) or type(err).__name__


def _excerpt(text: str) -> str:
    """A short single line without markup; an answer in HTML helps nobody in a log."""
    plain = " ".join(re.sub(r"<[^>]*>", " ", text).split()).rstrip(".: ")
    return plain if len(plain) <= _MAX_EXCERPT else f"{plain[:_MAX_EXCERPT]}..."


def _escaped(instance_id: str) -> str:
    """py-consul escapes a path, but leaves "/" and ":" as they are; an id must not reach another endpoint."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@:-]*", instance_id):
        raise InvalidInput(
            f"{json.dumps(instance_id)} is not an instance id.",
            field="instance.id",
            fix="Use letters, digits, dots, dashes and underscores.",
        )
    return instance_id
