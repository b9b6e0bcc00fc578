"""How a workload gets its certificate and keeps it fresh."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import grpc

from agentmesh.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from mesh.errors import MeshError, Unauthenticated, Unavailable
from mesh.identity.authority import utc_now
from mesh.identity.files import make_private_dir
from mesh.identity.first_contact import fetch_root
from mesh.identity.server_tls import TLS_NAME
from mesh.identity.svid import Svid, create_key, read_svid_files, write_svid_files
from mesh.identity.tokens import read_claims
from mesh.model import Address
from mesh.rpc import error_from_rpc, open_target
from mesh.runtime import Backoff
from mesh.telemetry import get_logger

_log = get_logger(__name__)

_TIMEOUT = 10.0
_LONGEST_NAP = 30.0
"""Seconds after which the clock is read again: it may have been set meanwhile."""

_AT_LEAST = timedelta(seconds=30)
"""A certificate that was found on disk is used when it is good for this long."""


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """Whose identity is wanted, where its files are kept, and where the control plane is."""

    service: str
    directory: Path
    enrolment: Address
    control: Address
    trust_domain: str


class Identity:
    """The workload's certificate at this moment. Made by `open_identity`; belongs to one event loop."""

    def __init__(
        self,
        settings: IdentitySettings,
        token: Callable[[], Awaitable[str]],
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._settings = settings
        self._token = token
        self._clock = clock
        self._current: Svid | None = None
        self._renewed = asyncio.Event()

    @property
    def current(self) -> Svid:
        """The newest certificate."""
        assert self._current is not None
        return self._current

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Mutual TLS with the newest certificate, for channels to the control plane."""
        return grpc.ssl_channel_credentials(
            self.current.trust_bundle.encode(),
            self.current.private_key.encode(),
            self.current.certificate_chain.encode(),
        )

    async def wait_for_renewal(self) -> None:
        """Return after the next renewal."""
        await self._renewed.wait()

    async def renew_now(self) -> None:
        """Get a new certificate: by the current one while it lasts, else by a new token. Raises MeshError."""
        if self.current.expire_time > self._clock():
            try:
                self._take(await self._sign_by_certificate())
                return
            except Unauthenticated:
                # The control plane does not know us any more; a token, if there is one, says more.
                _log.warning("certificate_not_accepted", for_service=self._settings.service)
            except Unavailable:
                if self.current.expire_time - self._clock() > _AT_LEAST:
                    raise
        self._take(await self._sign_by_token())

    async def start(self) -> None:
        """Take the files of an earlier life, or enrol. Raises MeshError."""
        make_private_dir(self._settings.directory)
        found = read_svid_files(self._settings.directory)
        if found is not None and self._is_usable(found):
            self._current = found
            write_svid_files(self._settings.directory, found)
            if found.renew_time > self._clock():
                return
            try:
                self._take(await self._sign_by_certificate())
                return
            except MeshError as err:
                _log.warning("identity_renewal_failed", reason=err.reason, error=str(err))
        self._take(await self._sign_by_token())

    async def keep_fresh(self) -> None:
        """Renew at half life, for ever."""
        backoff = Backoff(0.5, 15.0)
        while True:
            left = (self.current.renew_time - self._clock()).total_seconds()
            if left > 0:
                await asyncio.sleep(min(left, _LONGEST_NAP))
                continue
            try:
                await self.renew_now()
                backoff.reset()
            except MeshError as err:
                wait = backoff.next()
                _log.warning("identity_renewal_failed", reason=err.reason, error=str(err), retry_in=round(wait, 3))
                await asyncio.sleep(wait)

    def _is_usable(self, svid: Svid) -> bool:
        same = (svid.spiffe_id.service, svid.spiffe_id.trust_domain)
        return same == (self._settings.service, self._settings.trust_domain) and (
            svid.expire_time - self._clock() > _AT_LEAST
        )

    def _take(self, svid: Svid) -> None:
        write_svid_files(self._settings.directory, svid)
        self._current = svid
        _log.info("identity_renewed", spiffe_id=str(svid.spiffe_id), expires=svid.expire_time.isoformat())
        self._renewed.set()
        self._renewed = asyncio.Event()

    async def _sign_by_token(self) -> Svid:
        token = await self._token()
        claims = read_claims(token)
        root = await asyncio.to_thread(
            fetch_root, self._settings.enrolment, claims.ca, server_name=TLS_NAME, timeout=_TIMEOUT
        )
        credentials = grpc.ssl_channel_credentials(root.encode())
        return await self._sign(self._settings.enrolment, credentials, token)

    async def _sign_by_certificate(self) -> Svid:
        return await self._sign(self._settings.control, self.channel_credentials(), "")

    async def _sign(self, address: Address, credentials: grpc.ChannelCredentials, token: str) -> Svid:
        private_key, csr = create_key()
        request = identity_service_pb2.SignCertificateRequest(csr=csr, join_token=token, service=self._settings.service)
        async with open_target(str(address), credentials=credentials, authority=TLS_NAME) as channel:
            stub = identity_service_pb2_grpc.IdentityServiceStub(channel)
            try:
                response = await stub.SignCertificate(request, timeout=_TIMEOUT)
            except grpc.aio.AioRpcError as err:
                raise error_from_rpc(err) from err
        return Svid.from_pem(response.certificate_chain, private_key, response.trust_bundle)


@asynccontextmanager
async def open_identity(settings: IdentitySettings, token: Callable[[], Awaitable[str]]) -> AsyncIterator[Identity]:
    """An identity that is kept fresh while the context is open; its files are in `settings.directory`.

    `token` is asked for a join token when there is no certificate that still lasts. Raises MeshError when there is no
    certificate to be had.
    """
    identity = Identity(settings, token)
    await identity.start()
    keeping = asyncio.create_task(identity.keep_fresh())
    try:
        yield identity
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
