"""What changes whenever a service may begin to answer differently."""

import hashlib

from services.gateway.knowledge import Knowledge, MeshView


class Generations:
    """Told by the newest knowledge: a hash over the mesh document's version and the instances of a service."""

    def __init__(self, knowledge: Knowledge) -> None:
        self._knowledge = knowledge
        self._view = MeshView()
        self._known: dict[str, bytes] = {}

    def of(self, service: str) -> bytes:
        """The generation of a service; of one that is not known, that of a service without instances."""
        if self._view is not self._knowledge.mesh:
            self._view = self._knowledge.mesh
            self._known = {}
        known = self._known.get(service)
        if known is None:
            known = self._build(service)
            # Names that no service has are not remembered: they come from outside.
            if any(each.name == service for each in self._view.services):
                self._known[service] = known
        return known

    def _build(self, service: str) -> bytes:
        digest = hashlib.sha256(self._view.document_version.encode())
        for found in self._view.services:
            if found.name != service:
                continue
            # Health comes and goes without a change of what is answered.
            for it in found.instances:
                facts = (it.id, it.address, str(it.port), it.version, *it.capabilities)
                digest.update(repr(facts).encode())
        return digest.digest()
