"""Where the layers of the document stand, and what is new there.

    defaults.yaml ──┐
    ENV.yaml ───────┼──> ConfigSources ──news──> Rollout.apply
    operator's layer┘       └──> refused: what is not in force, and why

What was refused stays out of force until it changes again; what a revision has seen is no news after a restart.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mesh.config.history import OPERATOR, Draft, Layer, RevisionStore, text_hash
from mesh.errors import FailedPrecondition, InvalidInput, MeshError
from mesh.telemetry import get_logger
from services.control_plane.rollout import Rollout

DEFAULTS = "defaults"

_LOOK_SECONDS = 0.25
_WAIT_SECONDS = 5.0
_LOOK_BACK = 50
_LARGEST = 1 << 20

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RefusedLayer:
    """Content that stands in a layer's place and is not in force."""

    name: str
    source: str
    reason: str
    since: datetime


class ConfigSources:
    """The layers of one control plane. `operator_source` is what the operator's layer is called when edited by hand."""

    def __init__(self, directory: Path, environment: str, history: RevisionStore, *, operator_source: str) -> None:
        self.refused: dict[str, RefusedLayer] = {}
        self._history = history
        self._operator_source = operator_source
        self._files = {DEFAULTS: directory / "defaults.yaml", environment: directory / f"{environment}.yaml"}
        self._seen: dict[str, str] = {}
        self._last_look: dict[str, str] = {}

    def read_files(self) -> dict[str, Layer]:
        """The layers of files as they stand; raises InvalidInput or FailedPrecondition for what cannot be read."""
        return {name: Layer(name, str(path), _read(path)) for name, path in self._files.items()}

    async def first_draft(self) -> Draft:
        """The first revision of a new history: what stands in the places of the layers."""
        files = self.read_files()
        text = await self._history.read_operator_layer()
        layers = (*files.values(), Layer(OPERATOR, self._operator_source, text))
        return Draft(
            author="control-plane",
            message="the first revision",
            layers=layers,
            document_version="",
            applied=False,
            seen=_seen(layers),
        )

    def seen_with(self, layers: Sequence[Layer], name: str) -> Mapping[str, str]:
        """What a new revision has seen: layer `name` of `layers`, and of the others what stands in their places."""
        return {**self._seen, **{layer.name: text_hash(layer.text) for layer in layers if layer.name == name}}

    async def start(self) -> None:
        """Take what the newest revision has seen as known."""
        newest = (await self._history.head()).newest
        self._seen = dict((await self._history.get(newest)).draft.seen)

    def note_applied(self, text: str) -> None:
        """The operator's layer was applied through the API, which is no news from its place."""
        self._seen[OPERATOR] = text_hash(text)
        self.refused.pop(OPERATOR, None)

    async def follow(self, rollout: Rollout, *, leads: Callable[[], bool] = lambda: True) -> None:
        """Make a revision of each change of a layer, for ever."""
        looks = _look_for_ever()
        async for _ in looks:
            if not leads():
                continue
            for name, layer in await self._news():
                await self._take(rollout, name, layer)
            await self._tell_unused(rollout)

    async def _news(self) -> list[tuple[str, Layer]]:
        found: list[tuple[str, Layer]] = []
        for name, path in self._files.items():
            try:
                text = await asyncio.to_thread(_read, path)
            except MeshError as err:
                self._refuse(name, str(path), err)
                continue
            if self._has_settled(name, text) and text_hash(text) != self._seen.get(name):
                found.append((name, Layer(name, str(path), text)))
        try:
            operator = await self._operator_news()
        except MeshError as err:
            self._refuse(OPERATOR, self._operator_source, err)
            return found
        return [*found, *([(OPERATOR, operator)] if operator is not None else [])]

    def _has_settled(self, name: str, text: str) -> bool:
        """Whether a file was the same at two looks in a row: one half of a document may be a good document, too."""
        digest = text_hash(text)
        is_same = self._last_look.get(name) == digest
        self._last_look[name] = digest
        return is_same

    async def _operator_news(self) -> Layer | None:
        text = await self._history.read_operator_layer()
        digest = self._last_look[OPERATOR] = text_hash(text)
        if digest == self._seen.get(OPERATOR):
            return None
        head = await self._history.head()
        if digest in (head.operator, head.before):
            # In force by another control plane's hand, or about to be replaced by it.
            return None
        return Layer(OPERATOR, self._operator_source, text)

    async def _take(self, rollout: Rollout, name: str, layer: Layer) -> None:
        current = rollout.trials.current.revision.draft
        if any(known.name == name and known.text == layer.text for known in current.layers):
            self._seen[name] = text_hash(layer.text)
            self.refused.pop(name, None)
            return
        layers = tuple(layer if known.name == name else known for known in current.layers)
        if all(known.name != name for known in current.layers):
            # Another environment than the one before.
            operator = [known for known in current.layers if known.name == OPERATOR]
            files = [known for known in current.layers if known.name == DEFAULTS]
            layers = (*files, layer, *operator)
        draft = Draft(
            author=layer.source,
            message="changed in its place",
            layers=layers,
            document_version="",
            applied=False,
            seen=self.seen_with(layers, name),
        )
        try:
            outcome = await rollout.apply(draft, expected=None, wait=_WAIT_SECONDS, only=name)
        except FailedPrecondition as err:
            if err.reason in ("REVISION_STAGED", "STALE_REVISION"):
                # Its turn comes.
                return
            self._refuse(name, layer.source, err)
        except InvalidInput as err:
            self._refuse(name, layer.source, err)
        except MeshError as err:
            _log.error("layer_not_taken", layer=name, source=layer.source, reason=err.reason, error=str(err))
            return
        else:
            self.refused.pop(name, None)
            _log.info("layer_taken", layer=name, source=layer.source, revision=outcome.revision.number)
        self._seen[name] = text_hash(layer.text)

    async def _tell_unused(self, rollout: Rollout) -> None:
        """Tell of what stands in a place, has been seen, and is not in force: it was undone, sooner or later."""
        held = rollout.trials.staged or rollout.trials.current
        in_force = {layer.name: text_hash(layer.text) for layer in held.revision.draft.layers}
        places = {name: str(path) for name, path in self._files.items()} | {OPERATOR: self._operator_source}
        for name, place in places.items():
            digest = self._last_look.get(name)
            if digest is None or digest != self._seen.get(name):
                continue
            if digest == in_force.get(name):
                self.refused.pop(name, None)
            elif name not in self.refused:
                self._refuse(name, place, await self._why_unused(name, digest))

    async def _why_unused(self, name: str, digest: str) -> MeshError:
        for revision in await self._history.list(count=_LOOK_BACK):
            if any(layer.name == name and text_hash(layer.text) == digest for layer in revision.draft.layers):
                if revision.cause:
                    return FailedPrecondition(revision.cause, reason="CHANGE_UNDONE")
                break
        return FailedPrecondition("A revision with other content was restored.", reason="OTHER_CONTENT_RESTORED")

    def _refuse(self, name: str, source: str, err: MeshError) -> None:
        known = self.refused.get(name)
        if known is not None and known.reason == str(err):
            return
        self.refused[name] = RefusedLayer(name, source, str(err), datetime.now(UTC))
        _log.error("layer_refused", layer=name, source=source, reason=err.reason, error=str(err))


async def _look_for_ever() -> AsyncIterator[None]:
    while True:
        yield None
        await asyncio.sleep(_LOOK_SECONDS)


def _seen(layers: Sequence[Layer]) -> dict[str, str]:
    return {layer.name: text_hash(layer.text) for layer in layers}


def _read(path: Path) -> str:
    """The text of a layer; one whose file is not there says nothing."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return ""
    except OSError as err:
        raise FailedPrecondition(
            f"{path} cannot be read: {err.strerror or err}.", reason="LAYER_NOT_READABLE", fix="Make it readable."
        ) from err
    if len(data) > _LARGEST:
        raise InvalidInput(f"{path} has more than {_LARGEST} bytes.", fix="Is it a mesh document?")
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        raise InvalidInput(f"{path} is not text in UTF-8.", fix="Save it as UTF-8.") from err
