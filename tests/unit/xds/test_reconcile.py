"""Whatever changes, a reconciler that remembers gives what one that knows nothing gives, and names whom it concerns."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mesh.config.document import MeshDocument, Policy
from mesh.errors import PermissionDenied
from mesh.model import Address, Declaration, Instance, ProxySpec
from mesh.state import MeshState, StateStore
from mesh.xds import names
from mesh.xds.reconcile import ClientSpec, Reconciler

SERVICES = ["a", "b", "c"]
NAMES = st.sampled_from(SERVICES)
ZONES = ["", "east", "west"]


def spec(service, number=1, **more):
    paths = {"outbound_socket": f"/run/{service}-{number}/out.sock", "secrets_dir": "secrets"}
    return ProxySpec(service, f"{service}-{number}", **paths | more)


GUARDED = {"guard_socket": "/run/guard.sock", "web_socket": "/run/web.sock"}

SPECS = [
    spec("a", app_socket="/run/a/app.sock", inbound=Address("10.0.0.1", 1)),
    spec("a", 2, zone="east"),
    spec("b"),
    spec("gateway", app_socket="/run/g/app.sock", edge=Address("127.0.0.1", 8080), **GUARDED),
    ClientSpec("a"),
    ClientSpec("b", "west"),
]


def content(snapshot):
    return {
        (url, name): resource.version for url in names.SHORT_NAMES for name, resource in snapshot.of(url).items()
    } | {"needed": snapshot.endpoint_clusters}


def snapshot_of(reconciler, state, spec):
    try:
        return reconciler.snapshot(state, spec)
    except PermissionDenied:
        return None


class ReconcileMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.store = StateStore(MeshState("mesh.test"))
        self.reconciler = Reconciler()
        self.has = {it: snapshot_of(self.reconciler, self.store.current, it) for it in SPECS}

    @rule(name=NAMES, ports=st.sets(st.integers(1, 3)), zone=st.sampled_from(ZONES), well=st.booleans())
    def change_instances(self, name, ports, zone, well):
        found = tuple(
            Instance(name, f"{name}-{port}", "h", port, metadata={"zone": zone if port == 1 else "west"}, version="1")
            for port in sorted(ports)
        )
        if found:
            found = (replace(found[0], is_healthy=well), *found[1:])
        self.store.set_services({**self.store.current.services, name: found})

    @rule(name=NAMES)
    def forget_service(self, name):
        self.store.set_services({it: found for it, found in self.store.current.services.items() if it != name})

    @rule(name=NAMES, upstreams=st.sets(st.sampled_from([*SERVICES, "*"])))
    def declare(self, name, upstreams):
        declared = Declaration(name, "service", tuple(sorted(upstreams)))
        self.store.set_declarations({**self.store.current.declarations, name: declared})

    @rule(kind=st.sampled_from(["gateway", "service"]))
    def declare_gateway(self, kind):
        declared = Declaration("gateway", kind, ("*",))
        self.store.set_declarations({**self.store.current.declarations, "gateway": declared})

    @rule(name=NAMES, version=st.sampled_from(["1", "2"]))
    def split(self, name, version):
        document = {"services": {name: {"subsets": {"one": {"version": version}}, "split": {f"{name}/one": 100}}}}
        self.store.set_policy(Policy(MeshDocument.model_validate(document)))

    @rule(it=st.sampled_from(SPECS))
    def reconnect(self, it):
        self.reconciler.forget(it)
        self.has[it] = snapshot_of(self.reconciler, self.store.current, it)

    @invariant()
    def everybody_concerned_is_named_and_nobody_else(self):
        self.reconciler.advance(self.store.current)
        affected = set()
        while (it := self.reconciler.next_affected()) is not None:
            affected.add(it)
        for it in SPECS:
            now = snapshot_of(Reconciler(), self.store.current, it)
            if it in affected:
                before, known = self.has[it], snapshot_of(self.reconciler, self.store.current, it)
                if known is not None:
                    if before is not None:
                        changes = known.changes_since(before)
                        assert {(url, name) for url, found in changes.items() for name in found} == {
                            key
                            for key in content(before).keys() | content(known).keys()
                            if key != "needed" and content(before).get(key) != content(known).get(key)
                        }
                    self.has[it] = known
            if now is not None:
                assert content(self.has[it]) == content(now)


TestReconcile = ReconcileMachine.TestCase
TestReconcile.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@pytest.fixture
def store():
    declared = {name: Declaration(name, "service", ("x",)) for name in ("a", "b")} | {"c": Declaration("c", "mcp")}
    return StateStore(MeshState("mesh.test", services={"x": (instance(1),), "y": ()}, declarations=declared))


def instance(port, **more):
    return Instance("x", f"x-{port}", "h", port, **more)


def affected(reconciler, state):
    reconciler.advance(state)
    return set(iter(reconciler.next_affected, None))


def test_proxies_share_what_is_the_same(store):
    reconciler = Reconciler()
    first, second = (reconciler.sidecar_snapshot(store.current, spec(name)) for name in ("a", "b"))
    for url in (names.CLUSTER, names.ENDPOINT):
        assert first.of(url)["x"] is second.of(url)["x"]
    assert first.of(names.ENDPOINT) is second.of(names.ENDPOINT)


def test_a_change_of_instances_concerns_callers_only_and_leaves_all_else_as_it_is(store):
    reconciler = Reconciler()
    before = {name: reconciler.sidecar_snapshot(store.current, spec(name)) for name in ("a", "b", "c")}
    store.set_services({**store.current.services, "x": (instance(2),)})
    assert affected(reconciler, store.current) == {spec("a"), spec("b")}
    after = reconciler.sidecar_snapshot(store.current, spec("a"))
    assert after.of(names.CLUSTER) is before["a"].of(names.CLUSTER)
    assert after.of(names.ROUTE) is before["a"].of(names.ROUTE)
    assert after.changes_since(before["a"]) == {names.ENDPOINT: {"x"}}
    assert reconciler.sidecar_snapshot(store.current, spec("c")) is before["c"]


def test_a_new_service_concerns_those_who_call_every_service(store):
    reconciler = Reconciler()
    store.set_declarations({**store.current.declarations, "b": Declaration("b", "service", ("*",))})
    for name in ("a", "b"):
        reconciler.sidecar_snapshot(store.current, spec(name))
    store.set_services({**store.current.services, "new": (instance(5),)})
    assert affected(reconciler, store.current) == {spec("b")}


def test_who_could_not_be_served_is_tried_again_when_the_reason_is_gone(store):
    reconciler, edge = Reconciler(), spec("a", app_socket="/a", edge=Address("127.0.0.1", 1), **GUARDED)
    with pytest.raises(PermissionDenied):
        reconciler.sidecar_snapshot(store.current, edge)
    store.set_services({**store.current.services, "x": (instance(2),)})
    assert affected(reconciler, store.current) == set()
    store.set_declarations({**store.current.declarations, "a": Declaration("a", "gateway", ("x",))})
    assert affected(reconciler, store.current) == {edge}
    assert reconciler.sidecar_snapshot(store.current, edge).of(names.LISTENER)


def test_who_has_gone_is_forgotten(store):
    reconciler = Reconciler()
    for name in ("a", "b"):
        reconciler.sidecar_snapshot(store.current, spec(name))
        reconciler.forget(spec(name))
    store.set_services({})
    store.set_declarations({})
    assert affected(reconciler, store.current) == set()
    assert not any([reconciler._known, reconciler._readers, reconciler._endpoints._sets, reconciler._endpoints._users])
