"""Splits of canaries in the real pipeline of the mesh document, without proxies."""

import asyncio

import pytest

from mesh.config.history import OPERATOR, Draft, FileKeys, Layer, RevisionStore
from mesh.errors import InvalidInput
from mesh.state import MeshState, StateStore
from services.control_plane.audit import Audit
from services.control_plane.canary.document import LayeredDocument
from services.control_plane.canary.ports import Fate
from services.control_plane.config_sources import ConfigSources
from services.control_plane.rollout import Rollout

TEXT = """\
services:
  echo:
    # both run
    subsets: {v1: {version: "1"}, v2: {version: "2"}}
"""


class NoProxies:
    def proxies(self):
        return ()

    def preview(self, node_id, policy):
        return None

    def has_taken(self, node_id, changed):
        return None

    def refusals(self):
        return ()

    def refresh(self):
        return


class Pipeline:
    def __init__(self, directory):
        self.store = StateStore(MeshState("mesh.test"))
        self.history = RevisionStore(FileKeys(directory / "config"))
        self.rollout = Rollout(self.history, self.store, Audit(directory / "audit.jsonl"))
        files = directory / "files"
        files.mkdir()
        place = str(directory / "config" / "document")
        self.sources = ConfigSources(files, "dev", self.history, operator_source=place)
        self.document = LayeredDocument(self.rollout, self.sources)

    async def apply(self, text, author="operator ann"):
        current = self.rollout.trials.current.revision.draft.layers
        layers = (*(it for it in current if it.name != OPERATOR), Layer(OPERATOR, "file.yaml", text))
        draft = Draft(author, "by hand", layers, "", seen=self.sources.seen_with(layers, OPERATOR))
        return (await self.rollout.apply(draft, expected=None, wait=1.0)).revision.number

    async def split(self, **weights):
        split = {f"echo/{subset}": weight for subset, weight in weights.items()}
        return await self.document.set_split("echo", split, author="canary echo", message="some")

    @property
    def in_force(self):
        return dict(self.store.current.policy.of("echo").split)


@pytest.fixture
async def pipeline(tmp_path):
    pipeline = Pipeline(tmp_path)
    async with asyncio.timeout(20):
        await pipeline.rollout.start(NoProxies(), pipeline.sources.first_draft)
        await pipeline.sources.start()
        await pipeline.apply(TEXT)
        yield pipeline


async def test_a_split_is_a_revision_of_the_operators_layer_that_keeps_its_comments(pipeline):
    number = await pipeline.split(v1=95, v2=5)
    assert pipeline.in_force == {"echo/v1": 95, "echo/v2": 5}
    revision = await pipeline.history.get(number)
    assert (revision.draft.author, revision.draft.message) == ("canary echo", "some")
    (layer,) = (it for it in revision.draft.layers if it.name == OPERATOR)
    assert "# both run" in layer.text
    assert (await pipeline.document.news_of(number)).fate is Fate.IN_FORCE


async def test_a_split_that_is_in_force_makes_no_revision(pipeline):
    assert await pipeline.split(v1=95, v2=5) == await pipeline.split(v1=95, v2=5)


async def test_targets_of_an_earlier_split_get_nothing(pipeline):
    await pipeline.apply(TEXT + "    split: {echo: 100}\n")
    await pipeline.split(v1=50, v2=50)
    assert {target: it for target, it in pipeline.in_force.items() if it} == {"echo/v1": 50, "echo/v2": 50}


async def test_who_replaced_a_split_is_told(pipeline):
    number = await pipeline.split(v1=95, v2=5)
    newest = await pipeline.apply(TEXT, author="operator bob")
    news = await pipeline.document.news_of(number)
    assert (news.fate, news.text) == (Fate.REPLACED, f"Revision {newest} by operator bob")


async def test_a_change_elsewhere_in_the_document_leaves_the_split_in_force(pipeline):
    await pipeline.split(v1=95, v2=5)
    before = (await pipeline.history.list(count=1))[0].draft.layers[-1].text
    await pipeline.apply(before + "  other: {}\n")
    assert pipeline.in_force == {"echo/v1": 95, "echo/v2": 5}


async def test_why_a_split_was_undone_is_told(pipeline):
    number = await pipeline.split(v1=95, v2=5)
    await pipeline.history.undo(number, to=number - 1, cause="Envoy said no.")
    news = await pipeline.document.news_of(number)
    assert (news.fate, news.text) == (Fate.UNDONE, f"Revision {number} was undone: Envoy said no.")


async def test_what_is_not_valid_changes_nothing(pipeline):
    head = await pipeline.history.head()
    with pytest.raises(InvalidInput):
        await pipeline.document.set_split("echo", {"echo/v1": -5}, author="canary echo", message="")
    assert await pipeline.history.head() == head


async def test_a_change_that_was_undone_before_does_not_hinder_a_split(pipeline):
    undone = await pipeline.apply(TEXT + "    timeout: 3s\n")
    head = await pipeline.history.undo(undone, to=undone - 1, cause="bad")
    await pipeline.rollout._in_force.adopt(head)
    assert await pipeline.split(v1=95, v2=5) == undone + 1
    assert pipeline.in_force == {"echo/v1": 95, "echo/v2": 5}
