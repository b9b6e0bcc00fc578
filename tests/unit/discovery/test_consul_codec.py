import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.discovery import HealthCheck
from mesh.discovery.consul_codec import (
    MAX_KEYS,
    MAX_VALUE_BYTES,
    build_check,
    build_meta,
    build_tags,
    fingerprints,
    has_digests,
    parse_instances,
)
from mesh.errors import InvalidInput
from mesh.model import KINDS, Address, Instance

CHECK = HealthCheck(Address("127.0.0.1", 1), use_tls=False)

_texts = st.text(st.characters(codec="utf-8", exclude_characters=","), min_size=1, max_size=40)
_instances = st.builds(
    Instance,
    service=st.just("financial"),
    id=st.just("financial-1"),
    address=st.just("10.0.0.1"),
    port=st.integers(1, 65535),
    kind=st.sampled_from(KINDS),
    version=st.text(max_size=20),
    protocol=st.sampled_from(["grpc", "http"]),
    capabilities=st.sets(_texts, max_size=60).map(lambda names: tuple(sorted(names))),
    metadata=st.dictionaries(st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True), st.text(min_size=1, max_size=40)),
)


def entry_of(instance: Instance, *, node: str = "n", status: str = "passing", output: str = "") -> dict[str, object]:
    """What Consul answers for an instance that was registered here."""
    return {
        "Node": {"Node": node, "Address": "10.9.9.9"},
        "Service": {
            "ID": instance.id,
            "Address": instance.address,
            "Port": instance.port,
            "Tags": build_tags(instance),
            "Meta": build_meta(instance),
        },
        "Checks": [{"Status": status, "Output": output, "Notes": build_check(instance, CHECK)["notes"]}],
    }


def instance(**facts: object) -> Instance:
    defaults: dict[str, object] = {"service": "financial", "id": "financial-1", "address": "10.0.0.1", "port": 1}
    return Instance(**(defaults | facts))  # type: ignore[arg-type]


@given(_instances)
def test_an_instance_comes_back_from_consul_as_it_was(original):
    (found,) = parse_instances("financial", [entry_of(original)])
    assert found == original


@given(_instances)
def test_metadata_keeps_consuls_limits(original):
    meta = build_meta(original)
    assert len(meta) <= MAX_KEYS
    assert all(len(value.encode()) <= MAX_VALUE_BYTES for value in meta.values())


def test_many_capabilities_are_spread_over_several_values():
    names = tuple(sorted(f"capability-{number:04}" for number in range(500)))
    meta = build_meta(instance(capabilities=names))
    assert {"capabilities", "capabilities-2", "capabilities-3"} <= meta.keys()
    (found,) = parse_instances("financial", [entry_of(instance(capabilities=names))])
    assert found.capabilities == names


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"capabilities": ("a,b",)}, "capabilities"),
        ({"capabilities": ("",)}, "capabilities"),
        ({"capabilities": ("x" * 513,)}, "capabilities"),
        ({"capabilities": tuple(f"{number:03}" + "x" * 500 for number in range(70))}, "capabilities"),
        ({"metadata": {"a b": "c"}}, "metadata"),
        ({"metadata": {"a" * 127: "c"}}, "metadata"),
        ({"metadata": {"a": "c" * 513}}, "metadata"),
        ({"metadata": {str(number): "c" for number in range(70)}}, "metadata"),
        ({"version": "v" * 513}, "version"),
    ],
)
def test_what_consul_would_not_take_is_refused_by_name(facts, field):
    with pytest.raises(InvalidInput) as caught:
        build_meta(instance(**facts))
    assert caught.value.field == field
    assert caught.value.fix


def test_services_without_the_tag_are_no_members():
    foreign = entry_of(instance())
    foreign["Service"]["Tags"] = None  # type: ignore[index]
    assert parse_instances("financial", [foreign]) == ()


def test_an_instance_without_address_is_at_its_node_and_one_without_port_is_none():
    assert parse_instances("financial", [entry_of(instance(address=""))])[0].address == "10.9.9.9"
    assert parse_instances("financial", [entry_of(instance(port=0))]) == ()


def test_the_same_id_at_two_nodes_is_two_instances():
    entries = [entry_of(instance(), node="b"), entry_of(instance(address="10.0.0.2"), node="a")]
    assert [found.id for found in parse_instances("financial", entries)] == ["financial-1@a", "financial-1@b"]


@pytest.mark.parametrize(("status", "is_healthy"), [("passing", True), ("warning", True), ("critical", False)])
def test_one_failing_check_makes_an_instance_unhealthy_and_says_why(status, is_healthy):
    entry = entry_of(instance(), output="fine")
    entry["Checks"].append({"Status": status, "Output": "node is away", "Notes": ""})  # type: ignore[attr-defined]
    (found,) = parse_instances("financial", [entry])
    assert found.is_healthy is is_healthy
    assert is_healthy or found.health_output == "node is away"


def test_a_check_over_tls_does_not_ask_for_a_known_certificate():
    check = build_check(instance(), HealthCheck(Address("::1", 5), use_tls=True, interval=1, timeout=2))
    assert (check["grpc"], check["GRPCUseTLS"], check["TLSSkipVerify"]) == ("[::1]:5", True, True)
    assert (check["interval"], check["timeout"], check["DeregisterCriticalServiceAfter"]) == (
        "1000ms",
        "2000ms",
        "60000ms",
    )
    assert check["status"] == "critical"
    assert "GRPCUseTLS" not in build_check(instance(), CHECK)


def test_the_notes_of_a_check_change_with_every_fact():
    changes = ({}, {"port": 2}, {"kind": "mcp"}, {"version": "2"}, {"capabilities": ("a",)}, {"metadata": {"a": "b"}})
    assert len({build_check(instance(**change), CHECK)["notes"] for change in changes}) == len(changes)
    assert has_digests([entry_of(instance())])


def fact(check: str, *, node: str = "n", service: str = "", index: int = 1) -> dict[str, object]:
    tags = ["agentmesh"] if service else []
    return {"Node": node, "CheckID": check, "ModifyIndex": index, "ServiceName": service, "ServiceTags": tags}


def test_a_fingerprint_changes_with_its_own_checks_and_those_of_its_nodes_only():
    def prints(node_index: int, check_index: int, other_index: int) -> dict[str, object]:
        return dict(
            fingerprints(
                [
                    fact("serfHealth", index=node_index),
                    fact("serfHealth", node="m"),
                    fact("a", service="financial", index=check_index),
                    fact("b", node="m", service="utilities", index=other_index),
                ]
            )
        )

    before = prints(1, 1, 1)
    assert set(before) == {"financial", "utilities"}
    for changed, names in (
        (prints(2, 1, 1), {"financial"}),
        (prints(1, 2, 1), {"financial"}),
        (prints(1, 1, 2), {"utilities"}),
    ):
        assert {name for name in before if before[name] != changed[name]} == names


def test_checks_of_other_services_have_no_fingerprint():
    foreign = fact("x", service="postgres") | {"ServiceTags": ["primary"]}
    assert fingerprints([foreign, foreign | {"ServiceTags": None}]) == {}
