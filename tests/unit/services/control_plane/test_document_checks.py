"""What the rollout asks of a document before it publishes it."""

import asyncio

import pytest

from mesh.config import MeshSettings
from mesh.config.history import Draft, FileKeys, Layer, RevisionStore
from mesh.errors import DocumentInvalid
from mesh.model import Declaration, Instance, ProxySpec
from mesh.state import MeshState, StateStore, open_secret_store
from mesh.xds import ProxyStatus
from mesh.xds.reconcile import Reconciler
from services.control_plane.audit import Audit
from services.control_plane.config_sources import ConfigSources
from services.control_plane.document_reader import SecretReader, changed_fields, read_layers
from services.control_plane.rollout import Rollout

FILES = (Layer("defaults", "defaults.yaml", "defaults: {timeout: 5s}\n"),)


class OneProxy:
    """A sidecar of `caller` that calls `echo`, and takes what it gets."""

    def __init__(self, store):
        self._store = store
        self._spec = ProxySpec("caller", "caller-1", outbound_socket="/run/out.sock", secrets_dir="/run/secrets")

    def proxies(self):
        status = object.__new__(ProxyStatus)
        object.__setattr__(status, "node_id", "caller/caller-1")
        return (status,)

    def preview(self, node_id, policy):
        state = self._store.current
        return Reconciler().sidecar_snapshot(
            MeshState(state.trust_domain, state.namespace, state.services, state.declarations, policy), self._spec
        )

    def has_taken(self, node_id, changed):
        return True

    def refusals(self):
        return ()

    def refresh(self):
        pass


@pytest.fixture
async def rollout(tmp_path):
    settings = MeshSettings.from_environment({"MESH_STATE_DIR": str(tmp_path / "state")})
    store = StateStore(
        MeshState(
            "mesh.test",
            services={"echo": (Instance("echo", "echo-1", "10.0.0.1", 20_001),)},
            declarations={"caller": Declaration("caller", "agent", ("echo",))},
        )
    )
    made = Rollout(
        RevisionStore(FileKeys(tmp_path / "config")),
        store,
        Audit(tmp_path / "audit.jsonl"),
        secrets=SecretReader(settings),
        known_services=lambda: store.current.joined,
    )
    made.settings, made.store = settings, store

    async def first():
        return draft("")

    await made.start(OneProxy(store), first)
    return made


def draft(text, **more):
    layers = (*FILES, Layer("operator", "mine.yaml", text))
    return Draft(author="operator", message="", layers=layers, document_version="", **more)


async def faults_of(rollout, text):
    with pytest.raises(DocumentInvalid) as caught:
        await rollout.apply(draft(text), expected=None, wait=1)
    return [(fault.source, fault.line, fault.field, fault.reason) for fault in caught.value.faults]


async def test_a_good_document_comes_into_force(rollout):
    await rollout.apply(draft("services:\n  echo:\n    timeout: 2s\n"), expected=None, wait=1)
    assert rollout.store.current.policy.of("echo").timeout.total_seconds() == 2
    assert rollout.trials.current.reading.origin("services.echo.timeout").line == 3
    assert rollout.trials.current.reading.origin("services.echo.retry").line == 2


async def test_an_unknown_service_is_refused_with_its_line(rollout):
    ((source, line, field, reason),) = await faults_of(rollout, "services:\n  echo:\n    fallback: [eco]\n")
    assert (source, line, field) == ("mine.yaml", 3, "services.echo.fallback[0]")
    assert "did you mean echo?" in reason
    assert (await rollout.history.head()).newest == 1


async def test_a_service_that_is_gone_does_not_hold_up_other_changes(rollout):
    text = "services:\n  caller:\n    upstreams: [echo]\n"
    await rollout.apply(draft(text), expected=None, wait=1)
    rollout.store.set_services({})
    await rollout.apply(draft(f"{text}    timeout: 1s\n"), expected=None, wait=1)
    assert len(await faults_of(rollout, f"{text}    fallback: [echo]\n")) == 1
    await rollout.apply(draft(text, restores=2), expected=None, wait=1)


async def test_what_envoy_would_refuse_is_told_before_any_proxy_gets_it(rollout, monkeypatch):
    monkeypatch.setattr(
        "services.control_plane.document_checks.check_resource",
        lambda resource: ("connect_timeout: must be at most 1s",) if resource.name == "echo" else (),
    )
    text = "services:\n  echo:\n    connections:\n      connect_timeout: 9s\n"
    ((source, line, field, reason),) = await faults_of(rollout, text)
    assert (source, line, field) == ("mine.yaml", 4, "services.echo.connections.connect_timeout")
    assert reason == "Envoy would refuse cluster echo: connect_timeout: must be at most 1s"


SECRETIVE = """\
services:
  echo:
    routes:
      - name: r
        headers: {request: {set: {x-key: {secret: 'kv:key'}}}}
"""


async def test_a_missing_secret_is_told_and_a_new_value_reaches_the_proxies(rollout):
    ((_, line, field, reason),) = await faults_of(rollout, SECRETIVE)
    assert (line, field) == (5, "services.echo.routes[0].headers.request.set.x-key")
    assert "meshctl secrets set key" in reason
    async with open_secret_store(rollout.settings) as secrets:
        await secrets.set("key", "first-value")
        await rollout.apply(draft(SECRETIVE), expected=None, wait=1)
        first = rollout.store.current.policy
        assert dict(first.secrets) == {"kv:key": "first-value"}
        await secrets.set("key", "second-value")
    await rollout.renew_secrets()
    assert dict(rollout.store.current.policy.secrets) == {"kv:key": "second-value"}
    assert rollout.store.current.policy.version != first.version
    for path in rollout.settings.state_dir.parent.rglob("*"):
        assert path.is_dir() or b"-value" not in path.read_bytes()


def test_changes_lead_back_to_their_lines():
    before = read_layers((*FILES, Layer("operator", "mine.yaml", "")))
    text = "services:\n  a:\n    routes:\n      - {name: x.y, to: a}\n"
    after = read_layers((*FILES, Layer("operator", "mine.yaml", text)))
    (change,) = changed_fields(before, after)
    assert (change.field, change.after) == ('services.a.routes["x.y"].to', '"a"')
    assert after.origin(change.field).line == 4


async def test_a_file_that_is_being_written_is_not_taken(rollout, tmp_path):
    path = tmp_path / "defaults.yaml"
    path.write_text("defaults: {timeout: 5s}\n")
    (tmp_path / "dev.yaml").write_text("")
    sources = ConfigSources(tmp_path, "dev", rollout.history, operator_source="operator")
    await sources.start()
    looks = asyncio.create_task(sources.follow(rollout))
    texts = [f"defaults: {{timeout: {seconds}s}}\n" for seconds in range(6, 12)]
    try:
        async with asyncio.timeout(20):
            for text in texts:
                # Always another one than at the look before.
                path.write_text(text)
                seen = dict(sources._last_look)
                while sources._last_look == seen:
                    await asyncio.sleep(0.01)
            while rollout.store.current.policy.document.defaults.timeout.total_seconds() != 11:
                await asyncio.sleep(0.01)
        taken = {layer.text for each in await rollout.history.list(count=10) for layer in each.draft.layers}
        assert taken.isdisjoint(texts[:-1])
    finally:
        looks.cancel()
