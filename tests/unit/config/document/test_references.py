import pytest

from mesh.config.document import Layer, check_references, find_absent_services, load_document
from mesh.config.document.files import environment_layers

BASE = """\
services:
  a: {subsets: {v1: {version: "1"}, v2: {version: "2"}}}
  b: {}
"""


def check(text, known=("financial",)):
    return check_references(load_document([Layer("base", "base.yaml", BASE), Layer("it", "it.yaml", text)]), known)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "services: {a: {upstreams: ['*', b, financial, a]}, b: {upstreams: [a]}}",
        "services: {a: {routes: [{name: r, to: a/v1}, {name: s, split: {a/v2: 0, b: 1}, mirror: {to: b}}]}}",
        "services: {a: {routes: [{name: r, to: b, rewrite: {prefix: /x}, match: {path: {prefix: /y}}}]}}",
        "services: {a: {routes: [{name: r}], authorities: [a.example]}, b: {routes: [{name: r}]}}",
        "intentions: {i: {action: deny, callers: ['*'], services: ['*', a]}}",
        "services: {a: {fallback: [a/v1, b/v1]}, b: {fallback: [financial], subsets: {v1: {version: '1'}}}}",
        "services: {a: {routes: [{name: r, mirror: {to: b}}]}, b: {routes: [{name: r, mirror: {to: a}}]}}",
    ],
)
def test_good_documents_have_no_faults(text):
    assert check(text) == ()


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("services: {a: {upstreams: [finacial]}}", "services.a.upstreams[0]", "did you mean financial?"),
        ("services: {a: {upstreams: [zzzzz]}}", "services.a.upstreams[0]", "name it under `services`"),
        ("services: {a: {upstreams: [consul]}}", "services.a.upstreams[0]", "reserved"),
        ("services: {control-plane: {}}", "services.control-plane", "reserved"),
        ("services: {A_B: {}}", "services.A_B", "lower-case"),
        ("services: {a: {subsets: {V3: {version: '3'}}}}", "services.a.subsets.V3", "lower-case"),
        ("services: {a: {routes: [{name: r, to: a/v3}]}}", "services.a.routes[0].to", "there are v1, v2"),
        ("services: {a: {routes: [{name: r, to: b/v3}]}}", "services.a.routes[0].to", "describe it under"),
        ("services: {a: {routes: [{name: r, split: {a/v9: 1}}]}}", "services.a.routes[0].split.a/v9", "no subset"),
        (
            "services: {a: {routes: [{name: r, split: {'a b': 1}}]}}",
            'services.a.routes[0].split["a b"]',
            "SERVICE/SUBSET",
        ),
        ("services: {a: {split: {x: 1}}}", "services.a.split.x", "no service 'x'"),
        ("services: {a: {split: {a: 0, b: 0}}}", "services.a.split", "all weights are 0"),
        ("services: {a: {routes: [{name: r, split: {a: 0}}]}}", "services.a.routes[0].split", "all weights are 0"),
        (
            "services: {a: {routes: [{name: r, to: a, split: {b: 1}}]}}",
            "services.a.routes[0].split",
            "either to or split",
        ),
        ("services: {a: {routes: [{name: r, mirror: {to: c}}]}}", "services.a.routes[0].mirror.to", "no service 'c'"),
        ("services: {a: {fallback: [b/v1]}}", "services.a.fallback[0]", "no subset"),
        ("services: {a: {fault: {abort: {http: 500}, callers: [c]}}}", "services.a.fault.callers[0]", "no service"),
        ("defaults: {fault: {abort: {http: 500}, callers: [c]}}", "defaults.fault.callers[0]", "no service"),
        (
            "services: {a: {routes: [{name: r, fault: {abort: {http: 500}, callers: [c]}}]}}",
            "services.a.routes[0].fault.callers[0]",
            "no service",
        ),
        (
            "intentions: {i: {action: deny, callers: [c], services: [a]}}",
            "intentions.i.callers[0]",
            "no service",
        ),
        (
            "intentions: {i: {action: deny, callers: [a], services: [c]}}",
            "intentions.i.services[0]",
            "no service",
        ),
        (
            "intentions: {i: {action: deny, callers: [a], services: [b], headers: {X: y}}}",
            "intentions.i.headers.X",
            "lower case",
        ),
        ("services: {a: {routes: [{name: r}, {name: r}]}}", "services.a.routes[1].name", "twice"),
        (
            "services: {a: {authorities: [x.y]}, b: {authorities: [x.y]}}",
            "services.b.authorities[0]",
            "a has the authority",
        ),
        ("services: {a: {authorities: [financial]}}", "services.a.authorities[0]", "name of a service"),
        ("services: {a: {authorities: [b.localhost]}}", "services.a.authorities[0]", "name of a service"),
        ("services: {a: {authorities: [c.mesh]}}", "services.a.authorities[0]", ".mesh"),
        (
            "services: {a: {routes: [{name: r, rewrite: {prefix: /x}}]}}",
            "services.a.routes[0].rewrite.prefix",
            "match.path.prefix",
        ),
        (
            "services: {a: {routes: [{name: r, match: {authority: x}, rate_limit: {requests: 1}}]}}",
            "services.a.routes[0].rate_limit",
            "authority",
        ),
        ("services: {a: {timeout: 1s, retry: {per_try_timeout: 2s}}}", "services.a.retry.per_try_timeout", "longer"),
        ("defaults: {timeout: 1s, retry: {per_try_timeout: 2s}}", "defaults.retry.per_try_timeout", "longer"),
        (
            "services: {a: {retry: {per_try_timeout: 2s}, routes: [{name: r, timeout: 1s}]}}",
            "services.a.routes[0].timeout",
            "longer",
        ),
        ("services: {a: {fallback: [b]}, b: {fallback: [a]}}", "services.b.fallback", "a -> b -> a"),
        ("services: {a: {fallback: [a]}}", "services.a.fallback", "a -> a"),
        ("services: {a: {split: {b: 1}}, b: {routes: [{name: r, to: a}]}}", "services.b.routes", "a -> b -> a"),
        (
            "services: {a: {routes: [{name: r, headers: {request: {set: {host: x}}}}]}}",
            "services.a.routes[0].headers.request.set.host",
            "rewrite.authority",
        ),
        (
            "services: {a: {routes: [{name: r, headers: {request: {add: {authorization: x}}}}]}}",
            "services.a.routes[0].headers.request.add.authorization",
            "must not stand",
        ),
    ],
)
def test_a_fault_names_the_field_and_the_way_out(text, field, reason):
    (fault,) = check(text)
    assert (fault.source, fault.line, fault.field) == ("it.yaml", 1, field)
    assert reason in fault.reason


def test_a_service_that_is_to_come_may_be_named_if_the_document_has_it():
    assert check("services: {a: {upstreams: [later]}, later: {}}") == ()


def test_without_a_mesh_only_subsets_are_looked_up():
    assert check("services: {a: {upstreams: [nobody], routes: [{name: r, to: nobody}]}}", known=None) == ()
    (fault,) = check("services: {a: {fallback: [b/v1]}}", known=None)
    assert "no subset" in fault.reason


def test_a_circle_is_told_once_and_a_long_way_is_none():
    chain = ", ".join(f"s{n}: {{fallback: [s{n + 1}]}}" for n in range(3000))
    assert check(f"services: {{{chain}, s3000: {{}}}}") == ()
    assert len(check(f"services: {{{chain}, s3000: {{fallback: [s0]}}}}")) == 1


def test_policy_for_a_service_that_there_is_not_is_remarked_with_the_nearest_name():
    loaded = load_document([Layer("it", "it.yaml", "services:\n  financal: {}\n  gateway: {}\n  financial: {}\n")])
    (remark,) = find_absent_services(loaded, {"financial"})
    assert (remark.line, remark.field) == (2, "services.financal")
    assert remark.reason == "there is no such service so far; did you mean financial?"


CALL_TOOL = "agentmesh.mcp.v1.McpBridgeService/CallTool"


@pytest.mark.parametrize(
    "text",
    [
        "access: {roles: {r: {}}, bindings: {x: {roles: [r], anonymous: true}}}",
        "access: {roles: {r: {allow: [{services: ['*', a, gateway, financial], methods: [/x, 'acme.v1.S/M']}]}}}",
        f"access: {{roles: {{r: {{allow: [{{methods: [{CALL_TOOL}], tools: [x]}}], deny: [{{tools: [x]}}]}}}}}}",
        f"access: {{roles: {{r: {{deny: [{{methods: [{CALL_TOOL}]}}]}}}}}}",
        "access: {roles: {r: {deny: [{methods: ['agentmesh.mcp.v1.McpBridgeService/*'], tools: [x]}]}}}",
        "access: {roles: {r: {deny: [{methods: [/agentmesh*], tools: [x], skills: ['*']}]}}}",
        "edge: {limits: {l: {requests: 1, services: [a, gateway]}}}",
        "edge: {cache: {c: {methods: [agentmesh.mcp.v1.McpBridgeService/ListTools], ttl: 1s, services: [a]}}}",
        "edge: {cache: {c: {methods: ['*', 'agentmesh.mcp.v1.McpBridgeService/*'], ttl: 24h}}}",
        "access: {issuers: {corp: {issuer: x, audiences: [y], jwks: '{}'}}, roles: {r: {}}, "
        "bindings: {x: {roles: [r], issuer: corp, claims: {a: b}}}}",
    ],
)
def test_good_access_has_no_faults(text):
    assert check(text) == ()


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        (
            "access: {roles: {caller: {}}, bindings: {x: {roles: [caler], anonymous: true}}}",
            "access.bindings.x.roles[0]",
            "there is no role 'caler'; did you mean caller?",
        ),
        ("access: {bindings: {x: {roles: [zz], anonymous: true}}}", "access.bindings.x.roles[0]", "there are none"),
        (
            "access: {roles: {r: {}}, bindings: {x: {roles: [r], issuer: corp, claims: {a: b}}}}",
            "access.bindings.x.issuer",
            "describe it under access.issuers",
        ),
        (
            "access: {roles: {r: {deny: [{services: [finacial]}]}}}",
            "access.roles.r.deny[0].services[0]",
            "did you mean financial?",
        ),
        (
            "access: {roles: {r: {allow: [{methods: [agentmesh.mcp.v1.McpBridgeService/CalTool]}]}}}",
            "access.roles.r.allow[0].methods[0]",
            "did you mean CallTool?",
        ),
        (
            "access: {roles: {r: {deny: [{methods: ['agentmesh.mcp.v1.McpBridge/*']}]}}}",
            "access.roles.r.deny[0].methods[0]",
            "did you mean agentmesh.mcp.v1.McpBridgeService?",
        ),
        (
            f"access: {{roles: {{r: {{deny: [{{methods: [{CALL_TOOL}], tools: [x]}}]}}}}}}",
            "access.roles.r.deny[0].methods",
            "tools can be called through InvokeTool and Link, too; leave methods out",
        ),
        (
            "access: {roles: {r: {deny: [{methods: [agentmesh.agent.v1.AgentService/SubmitTask], skills: [x]}]}}}",
            "access.roles.r.deny[0].methods",
            "skills can be called through Converse, too",
        ),
        ("edge: {limits: {l: {requests: 1, services: [b, zz]}}}", "edge.limits.l.services[1]", "no service 'zz'"),
        (
            "edge: {cache: {c: {methods: [agentmesh.mcp.v1.McpBridgeService/X], ttl: 1s}}}",
            "edge.cache.c.methods[0]",
            "has no method 'X'",
        ),
        (
            f"edge: {{cache: {{c: {{methods: [{CALL_TOOL}], ttl: 1s}}}}}}",
            "edge.cache.c.methods[0]",
            "is no read whose answers can be kept; those are AgentService/GetAgentCard, ",
        ),
        (
            "edge: {cache: {c: {methods: ['*', agentmesh.mcp.v1.McpBridgeService/Watch], ttl: 1s}}}",
            "edge.cache.c.methods[1]",
            "is no read whose answers can be kept",
        ),
        (
            "edge: {cache: {c: {methods: [acme.v1.Shop/List], ttl: 1s}}}",
            "edge.cache.c.methods[0]",
            "is no read whose answers can be kept",
        ),
    ],
)
def test_access_that_leads_nowhere_is_told(text, field, reason):
    (fault,) = check(text)
    assert fault.field == field
    assert reason in fault.reason


@pytest.mark.parametrize("environment", ["dev", "staging", "production"])
def test_what_is_delivered_has_no_faults(environment):
    assert check_references(load_document(environment_layers(environment)), ()) == ()
