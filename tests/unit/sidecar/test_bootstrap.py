import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import FailedPrecondition
from mesh.identity import CertificateAuthority, Svid, write_svid_files
from mesh.identity.svid import create_key
from mesh.model import Address, ProxySpec, SpiffeId
from mesh.sidecar import ControlPlane, bootstrap, build_bootstrap, find_envoy

CONTROL = ControlPlane((Address("127.0.0.1", 18000),), SpiffeId("test.local", "default", "control-plane"))
IPV6 = ControlPlane((Address("2001:db8::1", 18000), Address("::1", 18000)), CONTROL.identity)
NAMED = ControlPlane((Address("control.example.org", 443),), CONTROL.identity)

PURE_CLIENT = ProxySpec("caller", "caller-1", outbound_socket="/run/out.sock", secrets_dir="/run/secrets")
MEMBER = ProxySpec(
    "echo",
    "echo-1",
    outbound_socket="/run/out.sock",
    secrets_dir="/run/secrets",
    inbound=Address("127.0.0.1", 20000),
    app_socket="/run/app.sock",
)
GATEWAY = ProxySpec(
    "gateway",
    "gateway-1",
    outbound_socket="/run/out.sock",
    secrets_dir="/run/secrets",
    inbound=Address("::1", 20000),
    app_socket="/run/app.sock",
    exposed_health=Address("127.0.0.1", 20001),
    edge=Address("127.0.0.1", 8080),
)
KINDS = [
    pytest.param(MEMBER, CONTROL, id="member"),
    pytest.param(GATEWAY, CONTROL, id="gateway"),
    pytest.param(PURE_CLIENT, CONTROL, id="pure client"),
    pytest.param(MEMBER, IPV6, id="IPv6"),
    pytest.param(MEMBER, NAMED, id="named control plane"),
]


def build(spec: ProxySpec, control: ControlPlane, **changes: Any) -> dict[str, Any]:
    return build_bootstrap(spec, control, admin_socket="/run/admin.sock", **changes)


def texts_of(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from (key, *texts_of(value))
    elif isinstance(node, list):
        for item in node:
            yield from texts_of(item)
    elif isinstance(node, str):
        yield node


@pytest.fixture
def secrets_dir(short_dir: Path) -> Path:
    """SDS files as a launcher writes them."""
    authority = CertificateAuthority.open(short_dir / "ca", trust_domain="test.local")
    key, csr = create_key()
    signed = authority.sign(csr, SpiffeId("test.local", "default", "echo"), reason="test")
    write_svid_files(short_dir / "secrets", Svid.from_pem(signed.chain_pem, key, authority.bundle_pem))
    return short_dir / "secrets"


@pytest.mark.parametrize(("spec", "control"), KINDS)
def test_envoy_accepts_the_bootstrap(
    spec: ProxySpec, control: ControlPlane, short_dir: Path, secrets_dir: Path
) -> None:
    path = short_dir / "bootstrap.json"
    path.write_text(json.dumps(build(replace(spec, secrets_dir=str(secrets_dir)), control)))
    done = subprocess.run(
        [find_envoy(), "--mode", "validate", "--config-path", path, "--disable-hot-restart", "--log-level", "warning"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "no configured limit" not in done.stderr
    assert "[warning]" not in done.stderr


@pytest.mark.parametrize(("spec", "control"), KINDS)
def test_no_placeholder_is_left_open(spec: ProxySpec, control: ControlPlane) -> None:
    assert [text for text in texts_of(build(spec, control)) if "${" in text] == []


@pytest.mark.parametrize("spec", [MEMBER, GATEWAY, PURE_CLIENT])
def test_the_control_plane_reads_back_what_the_launcher_wrote(spec: ProxySpec) -> None:
    node = build(spec, CONTROL)["node"]
    assert node["cluster"] == spec.service
    assert ProxySpec.from_metadata(node["id"], node["metadata"]) == spec


def test_values_keep_their_types() -> None:
    filled = build(MEMBER, CONTROL, most_connections=77)
    address = filled["static_resources"]["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]
    assert address["endpoint"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 18000}
    monitor = filled["overload_manager"]["resource_monitors"][0]["typed_config"]
    assert monitor["max_active_downstream_connections"] == 77
    assert filled["admin"] == {
        "address": {"pipe": {"path": "/run/admin.sock", "mode": 0o600}},
        "ignore_global_conn_limit": True,
    }


def test_only_the_control_plane_is_trusted_to_configure_it() -> None:
    (cluster,) = build(MEMBER, CONTROL)["static_resources"]["clusters"]
    tls = cluster["transport_socket"]["typed_config"]["common_tls_context"]
    (name,) = tls["combined_validation_context"]["default_validation_context"]["match_typed_subject_alt_names"]
    assert name == {"san_type": "URI", "matcher": {"exact": "spiffe://test.local/ns/default/svc/control-plane"}}
    assert tls["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_3"


def test_one_bootstrap_does_not_leak_into_the_next() -> None:
    first = build(MEMBER, CONTROL)
    first["node"]["id"] = "changed"
    first["static_resources"]["clusters"].clear()
    assert build(MEMBER, CONTROL)["node"]["id"] == "echo/echo-1"
    assert build(MEMBER, CONTROL)["static_resources"]["clusters"]


@pytest.fixture
def template(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = short_dir / "bootstrap.yaml"
    monkeypatch.setattr(bootstrap, "TEMPLATE", path)
    bootstrap._template.cache_clear()
    yield path
    bootstrap._template.cache_clear()


def test_a_placeholder_that_there_is_not_is_named(template: Path) -> None:
    template.write_text("node: {id: '${node_id} of ${no_such_thing}'}")
    with pytest.raises(FailedPrecondition, match="'no_such_thing'") as caught:
        build(MEMBER, CONTROL)
    assert caught.value.field == str(template)
    assert "node_id" in caught.value.fix


@pytest.mark.parametrize("content", [None, "a: [", "\xff\xfe".encode("latin-1"), "- a list", ""])
def test_a_template_that_is_none_is_named(template: Path, content: str | bytes | None) -> None:
    if content is not None:
        template.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FailedPrecondition, match=str(template)):
        build(MEMBER, CONTROL)


def test_text_around_a_placeholder_is_kept(template: Path) -> None:
    template.write_text("a: '${secrets_dir}/svid.json'\nb: ['${most_connections}', 7, true, null]\n'${c}': 1")
    assert build(MEMBER, CONTROL) == {"a": "/run/secrets/svid.json", "b": [10000, 7, True, None], "${c}": 1}
