"""Canaries without proxies: a document that obeys at once, reports that a test makes up, and a clock of its own."""

from datetime import UTC, datetime, timedelta

import pytest

from mesh.config.document import MeshDocument, Policy, merge
from mesh.config.history import Entry
from mesh.model import Instance
from mesh.state import MeshState, StateStore
from mesh.xds import LoadReports
from mesh.xds.load import Report
from services.control_plane.canary.book import CanaryBook
from services.control_plane.canary.controller import CanaryController
from services.control_plane.canary.plan import Plan
from services.control_plane.canary.ports import Fate, News
from services.control_plane.canary.record import Canary, Step

START = datetime(2026, 1, 1, tzinfo=UTC)
SUBSETS = {"services": {"echo": {"subsets": {"v1": {"version": "1"}, "v2": {"version": "2"}}}}}


class Clock:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time

    def now(self):
        return START + timedelta(seconds=self.time)


class MemoryKeys:
    """A KeyStore in memory; `lost_races` writes come too late."""

    def __init__(self):
        self.values = {}
        self.lost_races = 0

    async def get(self, key):
        return self.values.get(key)

    async def put(self, key, value, *, expected=None):
        known = self.values.get(key)
        if expected is not None and (self.lost_races or expected != (known.version if known else "")):
            self.lost_races = max(0, self.lost_races - 1)
            return False
        self.values[key] = Entry(value, str(int(known.version) + 1 if known else 1))
        return True

    async def delete(self, key):
        self.values.pop(key, None)

    async def watch(self):
        yield None


class FakeDocument:
    """A document that is in force as soon as it is set, unless `error` says otherwise."""

    def __init__(self, store):
        self.store = store
        self.revision = 0
        self.messages = []
        self.error = None
        self.is_staging = False
        self.news = News(Fate.IN_FORCE)

    async def set_split(self, service, split, *, author, message):
        if self.error is not None:
            raise self.error
        assert author == f"canary {service}"
        self.messages.append(message)
        self.revision += 1
        if not self.is_staging:
            self.put_in_force(service, split)
        return self.revision

    def put_in_force(self, service, split):
        plain = self.store.current.policy.document.model_dump(mode="json", exclude_unset=True)
        plain = merge(plain, {"services": {service: {"split": {}}}})
        plain["services"][service]["split"] = dict(split)
        self.store.set_policy(Policy(MeshDocument.model_validate(plain), self.revision))

    async def news_of(self, revision):
        return self.news


class World:
    """All that a canary of echo from v1 to v2 meets."""

    def __init__(self):
        self.clock = Clock()
        self.store = StateStore(MeshState("mesh.test", policy=Policy(MeshDocument.model_validate(SUBSETS))))
        self.run("1", "2")
        self.keys = MemoryKeys()
        self.book = CanaryBook(self.keys)
        self.document = FakeDocument(self.store)
        self.is_leader = True
        self.start_control_plane()

    def start_control_plane(self):
        """A new process: what is only measured is gone."""
        self.reports = LoadReports(clock=self.clock)
        self.source = self.reports.connect("caller/1", lambda: None)
        self.controller = CanaryController(
            self.book,
            self.document,
            self.store,
            self.reports,
            is_leader=lambda: self.is_leader,
            now=self.clock.now,
        )

    def run(self, *versions, ill=()):
        self.store.set_services(
            {
                "echo": tuple(
                    Instance("echo", f"echo-{it}", "127.0.0.1", 1, version=it, is_healthy=it not in ill)
                    for it in versions
                )
            }
        )

    async def start(self, **plan):
        given = {"steps": (10, 100), "interval": 10.0, "min_requests": 10}
        made = Plan("echo", "v1", "v2", **(given | plan))
        percent = 0 if made.max_p99_ratio is not None else made.steps[0]
        await self.book.start(Canary(made, "tester", self.clock.now(), (Step(percent, self.clock.now()),)))
        await self.look(3)

    async def look(self, times=2):
        for _ in range(times):
            await self.controller.look()

    async def pass_time(self, seconds, *, ok=0, errors=0, took=1, stable_ok=100, stable_took=1):
        """A report of the caller's proxy after so many seconds, and a look at it."""
        self.clock.time += seconds
        self.reports.take(
            self.source,
            {
                "v1.echo": Report(stable_ok, stable_ok, 0, 0, {stable_took: stable_ok}),
                "v2.echo": Report(ok + errors, ok, errors, 0, {took: ok + errors}),
            },
        )
        await self.look(4)

    @property
    def split(self):
        return dict(self.store.current.policy.of("echo").split)

    async def canary(self):
        return await self.book.newest("echo")


@pytest.fixture
def world():
    return World()
