"""Clients that change their minds, in a mesh that changes, at any moment, end up with exactly what they want.

Each response is compared with the state that its version names: nothing in it is of another state, and nothing is said
to be gone that was there.
"""

import asyncio
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.xds import names

LDS, RDS, CDS, EDS = names.LISTENER, names.ROUTE, names.CLUSTER, names.ENDPOINT
SOME = ["a", "b", "a-b", "c"]
SOME_NAMES = st.lists(st.sampled_from([*SOME, "nobody"]), max_size=4)
MOST_ROUNDS = 60
QUIET_ROUNDS = 5

# In delta, listeners and routes wait for the endpoints of all clusters, which an Envoy asks for; these clients may not.
TYPES = {"delta": [(CDS, EDS), (LDS, RDS, EDS), (RDS, EDS)], "sotw": [(LDS, RDS, EDS), (CDS, RDS, EDS)]}

CHANGE = st.tuples(
    st.just("change"), st.sets(st.sampled_from(SOME)), st.lists(st.sampled_from(SOME), min_size=2, max_size=4)
)
DISLIKES = st.sets(st.tuples(st.integers(0, 2), st.sampled_from(SOME), st.integers(0, 1)), min_size=2, max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 2), SOME_NAMES),
        st.tuples(st.just("ask"), st.integers(0, 2), st.just(["*"])),
        st.tuples(st.just("leave"), st.integers(0, 2), SOME_NAMES),
        st.tuples(st.just("leave"), st.integers(0, 2), st.just(["*"])),
        CHANGE,
        st.tuples(st.just("answer"), st.integers(1, 3)),
        st.tuples(st.just("listen")),
        st.tuples(st.just("babble"), st.integers(0, 2), st.integers(0, 9), st.booleans()),
    ),
    min_size=5,
    max_size=30,
)


class Chaotic:
    """Knows what it has asked for and keeps what it gets, as a client must."""

    def __init__(self, client, world, types, history):
        self.client, self.world, self.types, self.history = client, world, types, history
        self.is_delta = client.protocol == "delta"
        self.asked = {}
        self.has_named = set()
        self.stars = set()
        self.has = defaultdict(dict)
        self.bad = set()
        self.unanswered = []

    def is_wildcard(self, url):
        if self.is_delta:
            return url in self.stars
        return url in self.world.WHOLE and url in self.asked and (url in self.stars or url not in self.has_named)

    def wants(self, url, name):
        return self.is_wildcard(url) or name in self.asked.get(url, ())

    async def ask(self, which, wanted):
        url = self.types[which % len(self.types)]
        if "*" in wanted and url not in self.world.WHOLE:
            return
        if self.is_delta and url not in self.asked and not wanted and url in self.world.WHOLE:
            self.stars.add(url)
        self.stars |= {url} if "*" in wanted else set()
        self.asked[url] = self.asked.get(url, set()) | set(wanted) - {"*"}
        self.has_named |= {url} if wanted else set()
        await self.client.subscribe(url, *wanted)
        self._forget(url)

    async def leave(self, which, unwanted):
        url = self.types[which % len(self.types)]
        if url not in self.asked:
            return
        self.stars -= {url} if "*" in unwanted else set()
        self.asked[url] -= set(unwanted)
        await self.client.unsubscribe(url, *unwanted)
        self._forget(url)

    def _forget(self, url):
        self.has[url] = {name: revision for name, revision in self.has[url].items() if self.wants(url, name)}

    async def change(self, present, updated):
        self.world.change(
            added=present - self.world.names,
            removed=self.world.names - present,
            updated=[(url, name) for url, name in zip(self.types * 2, updated, strict=False) if name in present],
        )
        self._remember()

    def _remember(self):
        version = self.world.store.current.version
        self.history[version] = {url: self.world.has(url) for url in self.world.URLS}

    def dislike(self, which, name, revision):
        url = self.types[which % len(self.types)]
        # Empty routes, which stand for none, look as those of revision 0.
        self.bad.add((url, name, revision + (url == RDS)))

    async def babble(self, which, choice, is_refusal):
        """Acknowledge or refuse what never was, what is long past, or what is of another type."""
        url = self.types[which % len(self.types)]
        expected = {answer.nonce for answer in self.unanswered if answer.url == url}
        nonces = ["never", *(nonce for nonce in self.client.nonces if nonce not in expected)]
        if url in self.asked:
            fields = {"error": "a b c a-b are all bad"} if is_refusal else {}
            if not self.is_delta:
                fields["resource_names"] = sorted(self.client.wanted[url])
            await self.client.send(url, response_nonce=nonces[-1 - choice % len(nonces)], **fields)

    async def answer(self, count):
        for _ in range(min(count, len(self.unanswered))):
            await self._answer(self.unanswered.pop(0))

    async def _answer(self, answer):
        url = answer.url
        refused = {name for name, revision in answer.resources.items() if (url, name, revision) in self.bad}
        if not self.is_delta and url in self.world.WHOLE:
            self.has[url] = {name: it for name, it in self.has[url].items() if name in answer.resources}
        for name, revision in answer.resources.items():
            if name not in refused and self.wants(url, name):
                self.has[url][name] = revision
        for name in answer.removed:
            self.has[url].pop(name, None)
        if refused:
            await self.client.refuse(answer, f"these are bad: {', '.join(sorted(refused))}")
        else:
            await self.client.acknowledge(answer)

    async def listen(self):
        """Hear what the server has to say until it has read all that was said to it; true when there was something."""
        count = len(self.unanswered)
        await self.client.fence_among(self.types, self._hear)
        return len(self.unanswered) > count

    def _hear(self, answer):
        self._check(answer)
        self.unanswered.append(answer)

    def _check(self, answer):
        then = self.history[answer.version][answer.url]
        for name, revision in answer.resources.items():
            is_last_good = not self.is_delta and (answer.url, name, then.get(name)) in self.bad
            is_empty_route = self.is_delta and answer.url == RDS and name not in then and revision == 0
            assert then.get(name) == revision or is_last_good or is_empty_route, (name, answer, then)
        assert not then.keys() & set(answer.removed), "something was said to be gone that was there"
        assert answer.url != RDS or not answer.removed, "an Envoy whose routes are gone never becomes live"
        if self.is_delta and answer.url not in self.world.WHOLE:
            assert answer.resources or answer.removed, "a response with nothing in it"

    async def come_to_rest(self):
        quiet = 0
        for _ in range(MOST_ROUNDS):
            is_new = await self.listen()
            is_new = bool(self.unanswered) or is_new
            await self.answer(len(self.unanswered))
            quiet = 0 if is_new else quiet + 1
            if quiet == QUIET_ROUNDS:
                return
        raise AssertionError("the server never comes to rest")

    def lacks(self):
        """What it has not and should have, or the other way round."""
        found = []
        for url, asked in self.asked.items():
            exists = self.world.has(url)
            wanted = exists if self.is_wildcard(url) else {name: exists[name] for name in asked if name in exists}
            if self.is_delta and url == RDS:
                wanted = wanted | {name: 0 for name in asked if name not in exists}
            names_of = wanted.keys() | (self.has[url].keys() if self.is_delta or url in self.world.WHOLE else set())
            for name in sorted(names_of):
                if (url, name, exists.get(name)) in self.bad:
                    assert self.has[url].get(name) != exists[name]
                elif self.has[url].get(name) != wanted.get(name):
                    found.append((names.SHORT_NAMES[url], name, self.has[url].get(name), wanted.get(name)))
        return found


@pytest.mark.parametrize("protocol", ["delta", "sotw"])
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_in_the_end_a_client_has_exactly_what_it_wants(protocol, data, make_world, open_running, protocols):
    types = data.draw(st.sampled_from(TYPES[protocol]))
    steps = data.draw(STEPS)
    with make_world() as world:
        async with asyncio.timeout(30), open_running(world.store) as running:
            chaotic = Chaotic(running.connect(protocols[protocol]), world, types, {})
            for dislike in data.draw(DISLIKES):
                chaotic.dislike(*dislike)
            await chaotic.change(set(SOME), [])
            for which in range(len(types)):
                await chaotic.ask(which, data.draw(st.sampled_from([SOME, ["nobody", "a"], []])))
            for step, *facts in steps:
                await getattr(chaotic, step)(*facts)
            await chaotic.come_to_rest()
            assert chaotic.lacks() == []
