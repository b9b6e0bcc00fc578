"""From the layers of a revision to the policy that they mean, and back from a field to the line that set it.

layers ──read_layers──> Reading ──SecretReader──> Reading with the values of its secrets
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mesh.config import MeshSettings
from mesh.config.document import Layer as DocumentLayer
from mesh.config.document import LoadedDocument, Policy, load_document
from mesh.config.document.changes import ValueChange, changed_paths
from mesh.config.document.printing import document_text
from mesh.config.document.secrets import SecretSources, references_of, resolve_secrets
from mesh.config.history import Layer, Origin
from mesh.config.yaml_lines import parse_field
from mesh.state import open_secret_store
from mesh.xds.rollout import ChangedField


@dataclass(frozen=True, slots=True)
class Reading:
    """A document that fits its model, with the layers that it was made of."""

    policy: Policy
    loaded: LoadedDocument = field(repr=False)

    def origin(self, path: str) -> Origin:
        """The place that set a field, or the nearest one to it."""
        found = self.loaded.where(parse_field(path))
        return Origin(found.source, found.line, path)

    @property
    def text(self) -> str:
        """The effective document, YAML; secrets are references."""
        return document_text(self.loaded.document)

    @property
    def version(self) -> str:
        """A hash of the document alone: no secret has a part in what the history keeps."""
        return Policy(self.loaded.document).version


def read_layers(layers: Sequence[Layer], *, revision: int = 0) -> Reading:
    """Read layers, from the lowest to the highest; raises DocumentInvalid with all that is wrong."""
    loaded = load_document([DocumentLayer(layer.name, layer.source, layer.text) for layer in layers])
    return Reading(Policy(loaded.document, revision), loaded)


class SecretReader:
    """Looks up the secrets of documents."""

    def __init__(self, settings: MeshSettings) -> None:
        self._settings = settings

    async def complete(self, reading: Reading) -> Reading:
        """The reading with the values of its secrets as they are now; raises DocumentInvalid when one has none."""
        if not any(references_of(reading.loaded.document)):
            return reading
        settings = self._settings
        own = (settings.state_dir, settings.ca_dir, settings.secrets_key_file)
        async with open_secret_store(settings) as store:
            values = await resolve_secrets(reading.loaded, SecretSources(store, private_dirs=own))
        policy = replace(reading.policy, secrets=values, secrets_version=_number_of(values))
        return replace(reading, policy=policy)


def changed_fields(before: Reading, after: Reading) -> tuple[ValueChange, ...]:
    """The values that differ between two documents, sorted by field; secrets are masked."""
    return changed_paths(before.loaded.document, after.loaded.document)


def as_causes(changes: Sequence[ValueChange]) -> list[ChangedField]:
    """Changes as the judgement takes them."""
    return [ChangedField(change.field, change.after) for change in changes]


def _number_of(values: Mapping[str, str]) -> int:
    """Differs when a value does. It stays in this process."""
    return int.from_bytes(hashlib.sha256(json.dumps(sorted(values.items())).encode()).digest()[:8], "big")
