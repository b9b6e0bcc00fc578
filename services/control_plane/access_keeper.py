"""Keeps what decides about calls from outside: takes over what others have changed, and lets the token keys go on."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

from agentmesh.access.v1 import access_pb2
from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from mesh.access.issuer import AccessStores
from mesh.config.document.access import Tokens
from mesh.errors import MeshError
from mesh.model import TokenIssuer
from mesh.state import StateStore
from mesh.telemetry import get_logger
from services.control_plane.access_codec import timestamp, user_to_proto

_LOOK_SECONDS = 0.25
"""How often the folder is looked at for what another control plane has done."""

_log = get_logger(__name__)


class AccessKeeper:
    """Puts together what gateways are told; `changed` tells them that there is something new."""

    def __init__(self, stores: AccessStores, store: StateStore, *, clock: Callable[[], float] = time.time) -> None:
        self.stores = stores
        self._store = store
        self._clock = clock
        self._changed = asyncio.Event()
        self._told: pb.WatchAccessResponse | None = None

    @property
    def tokens(self) -> Tokens:
        """What the mesh document in force says of tokens."""
        return self._store.current.policy.document.access.tokens

    def refresh(self) -> None:
        """Work out anew what gateways are told, and wake those who wait when it is something else."""
        tokens, now = self.tokens, self._clock()
        jwks = self.stores.signing.jwks()
        self._store.set_token_issuer(TokenIssuer(tokens.issuer, tokens.audience, jwks))
        document = self._store.current.policy.document
        parts: dict[str, Any] = {
            "access": document.access.model_dump(mode="json"),
            "edge": document.edge.model_dump(mode="json"),
            "tools": document.tools.model_dump(mode="json"),
        }
        told = pb.WatchAccessResponse(
            document=json.dumps(parts, sort_keys=True).encode(),
            keys=[
                access_pb2.KeyVerifier(
                    id=key.id,
                    secret_sha256=key.digest,
                    roles=key.roles,
                    expire_time=timestamp(key.expires),
                    revoked=key.revoked is not None,
                )
                for key in sorted(self.stores.keys.all(), key=lambda key: key.id)
            ],
            users=[user_to_proto(user) for user in self.stores.users.all()],
            jwks=jwks.encode(),
            issuer=tokens.issuer,
            sealing_keys=self.stores.signing.sealing_keys(),
            ended_logins=self.stores.logins.ended(now=now, token_life=tokens.access_lifetime.total_seconds()),
        )
        told.version = hashlib.sha256(told.SerializeToString(deterministic=True)).hexdigest()[:16]
        if self._told is None or self._told.version != told.version:
            self._told = told
            self._changed.set()
            self._changed = asyncio.Event()

    async def next(self, seen: str) -> pb.WatchAccessResponse:
        """What gateways are told, as soon as its version is another one than `seen`."""
        while self._told is None or self._told.version == seen:
            await self._changed.wait()
        return self._told

    async def run(self, *, leads: Callable[[], bool]) -> None:
        """Keep everything going, for ever; only the one that leads makes new token keys and drops old ones."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_folder(leads))
            group.create_task(self._follow_document())

    async def _follow_folder(self, leads: Callable[[], bool]) -> None:
        said = ""
        while True:
            try:
                changed = await asyncio.to_thread(self.stores.reload)
                tokens = self.tokens
                if leads() or not self.stores.signing.all():
                    changed |= await asyncio.to_thread(
                        self.stores.signing.advance,
                        tokens.algorithm,
                        now=self._clock(),
                        key_life=tokens.key_lifetime.total_seconds(),
                        token_life=tokens.access_lifetime.total_seconds(),
                    )
                if changed or self._told is None:
                    self.refresh()
                said = ""
            except MeshError as err:
                if str(err) != said:
                    said = str(err)
                    _log.error("access_not_kept", error=said, reason=err.reason)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _follow_document(self) -> None:
        seen = ""
        async for state in self._store.watch():
            if state.policy.version != seen and self.stores.signing.all():
                seen = state.policy.version
                self.refresh()
