"""What a document must pass before it is published: nothing of it reaches a proxy when anything fails.

layers ──> text, model ──> references ──> secrets ──> resources of every proxy ──> Envoy's own rules ──> Check
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from mesh.config.document import check_references, find_absent_services
from mesh.config.history import Layer, Origin
from mesh.errors import DocumentInvalid, FailedPrecondition, Fault, InvalidInput, MeshError
from mesh.telemetry import get_logger
from mesh.xds import names
from mesh.xds.constraints import check_resource
from mesh.xds.rollout import Changed, changed_resources, find_cause
from mesh.xds.snapshot import Snapshot
from services.control_plane.document_reader import Reading, as_causes, changed_fields, read_layers
from services.control_plane.rollout_ports import Proxies, Secrets
from services.control_plane.trials import Trials

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Check:
    """A change that can be published: what it means, and what the proxies that it concerns get before and after it.

    `remarks` tell what may be a mistake.
    """

    reading: Reading
    snapshots: Mapping[str, tuple[Snapshot, Snapshot]]
    remarks: tuple[Fault, ...] = ()


class DocumentChecks:
    """Checks documents against what is in force. `proxies` is set before the first check."""

    def __init__(
        self, trials: Trials, secrets: Secrets | None, known_services: Callable[[], Collection[str] | None]
    ) -> None:
        self.proxies: Proxies | None = None
        self._trials = trials
        self._secrets = secrets
        self._known_services = known_services

    @property
    def connected(self) -> Proxies:
        """The connected proxies; raises FailedPrecondition before there can be any."""
        if self.proxies is None:
            raise FailedPrecondition("The control plane is starting.", reason="NOT_STARTED", retryable=True)
        return self.proxies

    async def check(self, layers: Sequence[Layer], *, revision: int = 0, is_restored: bool = False) -> Check:
        """Read layers and build what each connected proxy would get; raises InvalidInput for what is wrong.

        That is: DocumentInvalid with the places in the layers, of what Envoy would refuse, too. What is restored may
        name services that are gone.
        """
        reading = read_layers(layers, revision=revision)
        self._check_references(reading, None if is_restored else self._known_services())
        if self._secrets is not None:
            reading = await self._secrets.complete(reading)
        snapshots: dict[str, tuple[Snapshot, Snapshot]] = {}
        faults: set[Fault] = set()
        for status in self.connected.proxies():
            # Hundreds of proxies take a while; others must not wait for it.
            await asyncio.sleep(0)
            both = self._build(status.node_id, reading)
            if both is not None and (changed := changed_resources(*both)):
                faults.update(self._constraint_faults(reading, both[1], changed))
                snapshots[status.node_id] = both
        if faults:
            raise DocumentInvalid(sorted(faults))
        known = self._known_services()
        return Check(reading, snapshots, () if known is None else find_absent_services(reading.loaded, known))

    async def with_secrets(self, reading: Reading) -> Reading:
        """The reading with its secrets as they are now; as it is when they cannot be had: what runs goes on."""
        if self._secrets is None:
            return reading
        try:
            return await self._secrets.complete(reading)
        except MeshError as err:
            _log.error("secrets_not_read", revision=reading.policy.revision, reason=err.reason, error=str(err))
            return reading

    def _build(self, node_id: str, reading: Reading) -> tuple[Snapshot, Snapshot] | None:
        before = self.connected.preview(node_id, self._trials.current.policy)
        try:
            after = self.connected.preview(node_id, reading.policy)
        except MeshError as err:
            raise InvalidInput(
                f"The configuration of {node_id} cannot be built: {err.summary}",
                reason="CONFIGURATION_NOT_BUILT",
                field=err.field,
                fix=err.fix,
            ) from err
        return (before, after) if before is not None and after is not None else None

    def _check_references(self, reading: Reading, known: Collection[str] | None) -> None:
        """Raise DocumentInvalid for what is wrong, unless the document in force has it already.

        An instance that has crashed may take the name of its service with it: no reason to refuse other changes then.
        """
        faults = check_references(reading.loaded, known)
        if faults and self._trials.candidates:
            old = check_references(self._trials.current.reading.loaded, known)
            have = {(fault.field, fault.reason) for fault in old}
            faults = tuple(fault for fault in faults if (fault.field, fault.reason) not in have)
        if faults:
            raise DocumentInvalid(faults)

    def _constraint_faults(self, reading: Reading, snapshot: Snapshot, changed: Changed) -> list[Fault]:
        """What Envoy would refuse of the changed resources, with what caused it."""
        faults = []
        for url, resources in changed.items():
            for name in sorted(resources):
                resource = snapshot.of(url).get(name)
                flaw = next(iter(check_resource(resource)), None) if resource is not None else None
                if flaw is None:
                    continue
                changes = changed_fields(self._trials.current.reading, reading)
                cause = find_cause(as_causes([change for change in changes if change.after]), [name], flaw)
                place = reading.origin(cause.path) if cause is not None else Origin("document", 0, "")
                kind = names.SHORT_NAMES.get(url, url)
                reason = f"Envoy would refuse {kind} {name}: {flaw}"
                faults.append(Fault(place.source, place.line, place.field, reason))
        return faults
