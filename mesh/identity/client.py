"""How a workload gets its certificate and keeps it fresh."""

import asyncio
import random as _random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import grpc

from agentmesh.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from mesh.errors import DeadlineExceeded, FailedPrecondition, InvalidInput, MeshError, Unauthenticated, Unavailable
from mesh.identity.first_contact import fetch_root
from mesh.identity.root import utc_now
from mesh.identity.server_tls import TLS_NAME
from mesh.identity.svid import Svid, create_csr, create_key, read_svid_files, write_svid_files
from mesh.identity.tokens import read_claims
from mesh.model import Address
from mesh.rpc import error_from_rpc, open_target
from mesh.runtime import Backoff, open_background
from mesh.runtime.private_files import hold_private_dir, read_secret, remove_file, write_file
from mesh.telemetry import get_logger

_log = get_logger(__name__)

_TIMEOUT = 10.0
_TOKEN_TIMEOUT = 30.0
_LONGEST_NAP = 30.0
"""Seconds after which the clock is read again: it may have been set meanwhile."""

_AT_LEAST = timedelta(seconds=30)
"""A certificate that was found on disk is used when it is good for this long."""

_JITTER = 0.1
"""The part of the time until half life by which a renewal comes early at most: not all members renew at once."""

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 15.0
_WAIT_OF_LEFT = 0.25
"""The part of what is left of a certificate that passes at most between two attempts to renew it."""

_ENROLMENT_KEY = "enrolment.key"


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """Whose identity is wanted, where its files are kept, and where the control planes are, any of which will do."""

    service: str
    directory: Path
    enrolment: Address
    control_planes: tuple[Address, ...]
    trust_domain: str


class Identity:
    """The workload's certificate at this moment. Made by `open_identity`; belongs to one event loop."""

    def __init__(
        self,
        settings: IdentitySettings,
        token: Callable[[], Awaitable[str]],
        *,
        clock: Callable[[], datetime] = utc_now,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._settings = settings
        self._token = token
        self._clock = clock
        self._random = random
        self._current: Svid | None = None
        self._due_time: datetime | None = None
        self._renewed = asyncio.Event()
        self._renewing = asyncio.Lock()

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
        """Get a new certificate: by the current one while it is valid, else by a new token. Raises MeshError."""
        async with self._renewing:
            if self.current.is_valid_at(self._clock()):
                try:
                    self._take(await self._sign_by_certificate())
                    return
                except Unauthenticated as err:
                    # The control plane does not know us any more; a token, if there is one, says more.
                    _log.warning("certificate_not_accepted", for_service=self._settings.service, reason=err.reason)
                except (Unavailable, DeadlineExceeded):
                    if self.current.expire_time - self._clock() > _AT_LEAST:
                        raise
            self._take(await self._sign_by_token())

    async def start(self) -> None:
        """Take the files of an earlier life, or enrol. Raises MeshError."""
        # Tried first: a token must not be used up by a workload that cannot keep what it gets for it.
        with hold_private_dir(self._settings.directory):
            found = read_svid_files(self._settings.directory)
        if found is None or not self._is_usable(found):
            self._take(await self._sign_by_token())
            return
        write_svid_files(self._settings.directory, found)
        self._use(found)
        if self.renewal_is_due:
            await self._renew_at_start()

    async def keep_fresh(self) -> None:
        """Renew at half life or a little before, for ever; failures are logged and tried again, with backoff."""
        backoff = Backoff(_FIRST_WAIT, _LONGEST_WAIT, random=self._random)
        while True:
            if not self.renewal_is_due:
                assert self._due_time is not None
                await asyncio.sleep(min((self._due_time - self._clock()).total_seconds(), _LONGEST_NAP))
                continue
            try:
                await self.renew_now()
            except MeshError as err:
                wait = self._wait_at_most(backoff.next())
                _log.warning("identity_renewal_failed", reason=err.reason, error=str(err), retry_in=round(wait, 3))
                await asyncio.sleep(wait)
                continue
            backoff.reset()
            if self.renewal_is_due:
                # A certificate that comes too old, or too young, will be no better the next time.
                _log.warning("identity_clocks_differ", issued=self.current.issue_time.isoformat())
                await asyncio.sleep(_LONGEST_NAP)

    @property
    def renewal_is_due(self) -> bool:
        """True from about half life on, and when the clock was set back to before the certificate's life."""
        now = self._clock()
        return self._due_time is None or now >= self._due_time or not self.current.is_valid_at(now)

    def _wait_at_most(self, wait: float) -> float:
        """Shorter when the certificate would be near its end by then; one that has ended leaves nothing to lose."""
        left = (self.current.expire_time - self._clock()).total_seconds()
        return min(wait, max(_FIRST_WAIT, left * _WAIT_OF_LEFT)) if left > 0 else wait

    async def _renew_at_start(self) -> None:
        """One attempt: with a certificate that still lasts, a control plane that is away is no reason not to start."""
        try:
            await self.renew_now()
        except (Unavailable, DeadlineExceeded) as err:
            _log.warning("identity_renewal_failed", reason=err.reason, error=str(err))

    def _is_usable(self, svid: Svid) -> bool:
        now = self._clock()
        return self._is_ours(svid) and svid.is_valid_at(now) and svid.expire_time - now > _AT_LEAST

    def _is_ours(self, svid: Svid) -> bool:
        return (svid.spiffe_id.service, svid.spiffe_id.trust_domain) == (
            self._settings.service,
            self._settings.trust_domain,
        )

    def _take(self, svid: Svid) -> None:
        write_svid_files(self._settings.directory, svid)
        self._use(svid)
        _log.info("identity_renewed", spiffe_id=str(svid.spiffe_id), expires=svid.expire_time.isoformat())
        self._renewed.set()
        self._renewed = asyncio.Event()

    def _use(self, svid: Svid) -> None:
        self._current = svid
        early = (svid.renew_time - svid.issue_time) * (_JITTER * self._random())
        self._due_time = svid.renew_time - early

    async def _sign_by_token(self) -> Svid:
        token = await self._next_token()
        claims = read_claims(token)
        root = await fetch_root(
            self._settings.enrolment, claims.ca, server_name=TLS_NAME, timeout=_TIMEOUT, clock=self._clock
        )
        svid = await self._sign(
            self._settings.enrolment, grpc.ssl_channel_credentials(root.encode()), self._enrolment_key(), token
        )
        remove_file(self._settings.directory / _ENROLMENT_KEY)
        return svid

    async def _next_token(self) -> str:
        try:
            async with asyncio.timeout(_TOKEN_TIMEOUT) as limit:
                return await self._token()
        except TimeoutError as err:
            if not limit.expired():
                raise
            raise DeadlineExceeded(f"No join token came within {_TOKEN_TIMEOUT:g} s.", field="join_token") from err

    def _enrolment_key(self) -> str:
        """The key to enrol with, the same until that has succeeded: a token whose answer was lost serves it again."""
        path = self._settings.directory / _ENROLMENT_KEY
        kept = (read_secret(path) or b"").decode(errors="replace")
        try:
            create_csr(kept)
            return kept
        except InvalidInput:
            private_key, _ = create_key()
            write_file(path, private_key.encode(), mode=0o600)
            return private_key

    async def _sign_by_certificate(self) -> Svid:
        private_key, _ = create_key()
        *others, last = self._settings.control_planes
        for address in others:
            try:
                return await self._sign(address, self.channel_credentials(), private_key, "")
            except (Unavailable, DeadlineExceeded) as err:
                _log.info("control_plane_passed_over", address=str(address), reason=err.reason)
        return await self._sign(last, self.channel_credentials(), private_key, "")

    async def _sign(self, address: Address, credentials: grpc.ChannelCredentials, private_key: str, token: str) -> Svid:
        request = identity_service_pb2.SignCertificateRequest(
            csr=create_csr(private_key), join_token=token, service=self._settings.service
        )
        async with open_target(str(address), credentials=credentials, authority=TLS_NAME) as channel:
            stub = identity_service_pb2_grpc.IdentityServiceStub(channel)
            try:
                response = await stub.SignCertificate(request, timeout=_TIMEOUT)
            except grpc.aio.AioRpcError as err:
                raise error_from_rpc(err) from err
        svid = Svid.from_pem(response.certificate_chain, private_key, response.trust_bundle)
        if not self._is_ours(svid):
            raise FailedPrecondition(
                f"The control plane at {address} has sent a certificate of {svid.spiffe_id}.",
                reason="WRONG_IDENTITY",
                field="MESH_TRUST_DOMAIN",
                fix=f"Its trust domain and that of this workload, {self._settings.trust_domain}, must be the same.",
            )
        return svid


@asynccontextmanager
async def open_identity(settings: IdentitySettings, token: Callable[[], Awaitable[str]]) -> AsyncIterator[Identity]:
    """An identity that is kept fresh while the context is open; its files are in `settings.directory`.

    `token` is asked for a join token when there is no certificate that still lasts; it raises MeshError when there is
    none. Raises MeshError when there is no certificate to be had. What else `token` raises later on ends the body.
    """
    identity = Identity(settings, token)
    await identity.start()
    async with open_background(identity.keep_fresh()):
        yield identity
