"""Keeping one instance registered for as long as it lives."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh.discovery.registry import HealthCheck, Registry
from mesh.errors import MeshError
from mesh.model import Instance
from mesh.runtime import Backoff, open_background
from mesh.telemetry import get_logger

# How often the registry is told that the instance lives, and asked whether it still knows it.
POLL = 2.0
FIRST_RETRY = 0.1
LONGEST_RETRY = 2.0
# The bound on taking the instance out at the end. When it does not do, the registry's check finds the instance dead.
DEREGISTER_TIMEOUT = 5.0

_log = get_logger(__name__)


class Registration:
    """An instance that is kept in a registry. Made by `open_registration`."""

    def __init__(self, registry: Registry, instance: Instance, check: HealthCheck) -> None:
        self._registry = registry
        self._instance = instance
        self._check = check
        self._lock = asyncio.Lock()
        self._is_written = False
        self._is_failing = False

    @property
    def instance(self) -> Instance:
        """The instance as it is, or is to be, registered."""
        return self._instance

    @property
    def is_registered(self) -> bool:
        """Whether the registry has the newest instance, as far as is known."""
        return self._is_written

    async def update(self, instance: Instance, check: HealthCheck | None = None) -> None:
        """Register the instance with other facts; it must have the same service and id.

        Raises what Registry.register raises; the update is then tried again in the background.
        """
        if (instance.service, instance.id) != (self._instance.service, self._instance.id):
            raise ValueError("An update keeps service and id; open another registration instead.")
        self._instance = instance
        self._check = check or self._check
        self._is_written = False
        await self._write()

    async def _write(self) -> None:
        async with self._lock:
            instance = self._instance
            await self._registry.register(instance, self._check)
            self._is_written = instance is self._instance

    async def _ensure(self) -> None:
        """Write the instance if the registry does not have it."""
        if self._is_written and not await self._registry.renew(self._instance.id):
            _log.warning("registration_lost", service_name=self._instance.service, instance=self._instance.id)
            self._is_written = False
        if not self._is_written:
            await self._write()
            _log.info("instance_registered", service_name=self._instance.service, instance=self._instance.id)

    async def _keep(self) -> None:
        backoff = Backoff(FIRST_RETRY, LONGEST_RETRY)
        while True:
            try:
                await self._ensure()
            except MeshError as err:
                self._note_failure(err)
                await asyncio.sleep(backoff.next())
                continue
            self._is_failing = False
            backoff.reset()
            await asyncio.sleep(POLL)

    def _note_failure(self, err: MeshError) -> None:
        if not self._is_failing:
            self._is_failing = True
            _log.warning(
                "registration_failing",
                service_name=self._instance.service,
                instance=self._instance.id,
                error=str(err),
                reason=err.reason,
            )

    async def _remove(self) -> None:
        try:
            async with asyncio.timeout(DEREGISTER_TIMEOUT):
                await self._registry.deregister(self._instance.id)
        except (MeshError, TimeoutError) as err:
            _log.warning(
                "deregistration_failed",
                service_name=self._instance.service,
                instance=self._instance.id,
                error=str(err) or "the registry did not answer in time",
            )
        else:
            _log.info("instance_deregistered", service_name=self._instance.service, instance=self._instance.id)


@asynccontextmanager
async def open_registration(registry: Registry, instance: Instance, check: HealthCheck) -> AsyncIterator[Registration]:
    """Register an instance, register it again whenever the registry has lost it, and deregister it at the end.

    A registry that is away at the start is no error: the registration then comes about in the background, and
    `is_registered` tells when. Raises the errors of Registry.register that will not pass by themselves.
    """
    registration = Registration(registry, instance, check)
    try:
        try:
            await registration._ensure()
        except MeshError as err:
            if not err.retryable:
                raise
            registration._note_failure(err)
        async with open_background(registration._keep()):
            yield registration
    finally:
        await registration._remove()
