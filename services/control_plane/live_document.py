"""The mesh document of a running control plane: its history, its layers, and its rollout."""

import asyncio
from collections.abc import Callable, Collection

from mesh.config import MeshSettings
from mesh.config.history import FileKeys, KeyStore, RevisionStore
from mesh.discovery import ConsulEndpoint
from mesh.errors import InvalidInput, MeshError
from mesh.runtime import Backoff
from mesh.state import StateStore
from mesh.telemetry import get_logger
from services.control_plane.audit import Audit
from services.control_plane.config_keys import PREFIX, ConsulKeys
from services.control_plane.config_sources import ConfigSources
from services.control_plane.document_reader import SecretReader
from services.control_plane.rollout import Rollout
from services.control_plane.rollout_ports import ErrorRates, Proxies

_log = get_logger(__name__)


class LiveDocument:
    """Made before the ADS server, which asks it; `start` before proxies are served, then `run` for ever.

    `leads` tells whether this one of several control planes does what only one may do. `known_services` gives the names
    that a document may use, None while they are not known.
    """

    def __init__(
        self,
        settings: MeshSettings,
        store: StateStore,
        consul: ConsulEndpoint | None,
        *,
        leads: Callable[[], bool],
        known_services: Callable[[], Collection[str] | None],
        error_rates: ErrorRates | None = None,
    ) -> None:
        self.is_shared = settings.config_history == "consul"
        directory = settings.state_dir / "config"
        keys: KeyStore
        if not self.is_shared:
            keys = FileKeys(directory)
        elif consul is not None:
            keys = ConsulKeys(consul)
        else:
            raise InvalidInput(
                "There is no Consul that could keep the history of the mesh document.",
                field="MESH_CONFIG_HISTORY",
                fix="Leave it out, or use Consul as the registry (MESH_REGISTRY=consul).",
            )
        # Alone, it leads whether Consul answers or not.
        self._leads = leads if self.is_shared else lambda: True
        self._history = RevisionStore(keys)
        self.rollout = Rollout(
            self._history,
            store,
            Audit(settings.state_dir / "audit.jsonl"),
            error_rates=error_rates,
            leads=self._leads,
            secrets=SecretReader(settings),
            known_services=known_services,
        )
        place = f"{PREFIX}document" if self.is_shared else str(directory / "document")
        self.sources = ConfigSources(settings.config_dir, settings.environment, self._history, operator_source=place)
        self.started = asyncio.Event()

    @property
    def leads(self) -> bool:
        """Whether this control plane does what only one may do; alone, it does, whether Consul answers or not."""
        return self._leads()

    async def start(self, proxies: Proxies) -> None:
        """Take up the document that is in force, or make the first one; raises MeshError when it cannot be read."""
        await self.rollout.start(proxies, self.sources.first_draft)
        await self.sources.start()
        self.started.set()

    async def run(self, proxies: Proxies) -> None:
        """Start unless that is done, then keep everything going for ever."""
        backoff = Backoff(0.1, 2.0)
        while not self.started.is_set():
            try:
                await self.start(proxies)
            except MeshError as err:
                if not err.retryable:
                    raise
                _log.warning("document_not_read", reason=err.reason, error=str(err))
                await asyncio.sleep(backoff.next())
        async with asyncio.TaskGroup() as group:
            group.create_task(self.rollout.run())
            group.create_task(self.rollout.follow())
            group.create_task(self.sources.follow(self.rollout, leads=self._leads))
