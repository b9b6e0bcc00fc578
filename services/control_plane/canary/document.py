"""The mesh document for canaries: the pipeline that every other change of it takes, too."""

from collections.abc import Mapping

from mesh.config.history import OPERATOR, Draft, Layer, Status
from mesh.errors import FailedPrecondition
from services.control_plane.canary.ports import Fate, News
from services.control_plane.canary.split_text import with_split
from services.control_plane.config_sources import ConfigSources
from services.control_plane.rollout import Rollout

_WAIT_SECONDS = 5.0


class LayeredDocument:
    """A `Document` whose splits are written into the operator's layer."""

    def __init__(self, rollout: Rollout, sources: ConfigSources) -> None:
        self._rollout = rollout
        self._sources = sources

    async def set_split(self, service: str, split: Mapping[str, int], *, author: str, message: str) -> int:
        """See Document.set_split."""
        # The newest one, which may have been undone, before what is in force: another change between shows.
        newest = (await self._rollout.history.head()).newest
        current = self._rollout.trials.current
        before = next((layer for layer in current.revision.draft.layers if layer.name == OPERATOR), None)
        # Lower layers may have a split, too, and mappings of layers are merged.
        others = dict.fromkeys(current.policy.of(service).split, 0)
        text = with_split(before.text if before is not None else "", service, {**others, **split})
        kept = [layer for layer in current.revision.draft.layers if layer.name != OPERATOR]
        layers = (*kept, Layer(OPERATOR, before.source if before is not None else author, text))
        draft = Draft(
            author=author,
            message=message,
            layers=layers,
            document_version="",
            seen=self._sources.seen_with(layers, OPERATOR),
        )
        outcome = await self._rollout.apply(draft, expected=newest, wait=_WAIT_SECONDS)
        self._sources.note_applied(text)
        if outcome.status is Status.ROLLED_BACK:
            raise FailedPrecondition(
                f"Revision {outcome.revision.number} was undone: {outcome.revision.cause}", reason="CHANGE_UNDONE"
            )
        return outcome.revision.number

    async def news_of(self, revision: int) -> News:
        """See Document.news_of."""
        history = self._rollout.history
        head = await history.head()
        found = await history.get(revision)
        match head.status_of(found):
            case Status.STAGED:
                return News(Fate.COMING)
            case Status.ACTIVE:
                held = self._rollout.trials.holds(revision)
                return News(Fate.IN_FORCE if held else Fate.COMING)
            case Status.ROLLED_BACK:
                return News(Fate.UNDONE, f"Revision {revision} was undone: {found.cause}")
            case Status.SUPERSEDED:
                newest = await history.get(head.active)
                return News(Fate.REPLACED, f"Revision {newest.number} by {newest.draft.author}")
