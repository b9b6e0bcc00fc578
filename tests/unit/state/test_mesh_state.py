from dataclasses import replace

from mesh.model import Declaration, Instance
from mesh.state import MeshState

ONE = Instance("financial", "financial-1", "127.0.0.1", 1)


def state_with(*instances: Instance, declarations: tuple[Declaration, ...] = ()) -> MeshState:
    services: dict[str, tuple[Instance, ...]] = {}
    for instance in instances:
        services[instance.service] = (*services.get(instance.service, ()), instance)
    return MeshState("mesh.test", services=services, declarations={it.service: it for it in declarations})


def test_equal_states_have_equal_versions():
    assert state_with(ONE).version == state_with(replace(ONE)).version


def test_every_fact_that_routes_changes_the_version():
    before = state_with(ONE).version
    changes = (
        {"address": "127.0.0.2"},
        {"port": 2},
        {"is_healthy": False},
        {"version": "2"},
        {"kind": "mcp"},
        {"capabilities": ("npv",)},
        {"metadata": {"zone": "a"}},
    )
    versions = {state_with(replace(ONE, **change)).version for change in changes}
    assert before not in versions
    assert len(versions) == len(changes)


def test_the_output_of_a_check_alone_is_no_new_version():
    assert state_with(replace(ONE, health_output="refused")).version == state_with(ONE).version


def test_names_are_those_of_services_and_declarations():
    assert state_with(ONE, declarations=(Declaration("agent", "agent"),)).names == ("agent", "financial")


def test_upstreams_are_those_declared_and_never_the_service_itself():
    declared = Declaration("agent", "agent", ("utilities", "financial", "agent"))
    assert state_with(declarations=(declared,)).upstreams_of("agent") == ("financial", "utilities")


def test_a_star_stands_for_every_other_service():
    state = state_with(ONE, declarations=(Declaration("gateway", "gateway", ("*",)), Declaration("utilities", "mcp")))
    assert state.upstreams_of("gateway") == ("financial", "utilities")


def test_a_service_that_is_not_declared_may_call_nobody():
    assert state_with(ONE).upstreams_of("financial") == ()


def test_the_identity_of_a_service_has_trust_domain_and_namespace():
    assert str(state_with().spiffe_id("financial")) == "spiffe://mesh.test/ns/default/svc/financial"
