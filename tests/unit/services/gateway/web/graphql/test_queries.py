import asyncio
import base64

import pytest

from agentmesh.agent.v1 import agent_pb2

SERVICES = "{ services { nodes { name kind upstreams } totalCount pageInfo { hasNextPage endCursor } } }"


async def test_everybody_sees_what_it_may_call_only(edge):
    shown = (await edge.data(SERVICES, headers={"x-mesh-user": ""}))["services"]
    assert shown["nodes"] == [{"name": "financial", "kind": "mcp", "upstreams": ["*", "financial"]}]
    assert shown["totalCount"] == 1
    every = (await edge.data(SERVICES))["services"]
    assert [node["name"] for node in every["nodes"]] == ["financial", "secrets", "von-neumann"]


async def test_pages_hold_each_service_once_while_services_come_and_go(edge):
    fields = "nodes { name } pageInfo { hasNextPage endCursor }"
    query = f"query ($after: String) {{ services(first: 2, after: $after) {{ {fields} }} }}"
    first = (await edge.data(query))["services"]
    world = edge.world
    world.set_services(world.service("aaa"), world.service("zzz"))
    second = (await edge.data(query, {"after": first["pageInfo"]["endCursor"]}))["services"]
    assert [node["name"] for node in first["nodes"] + second["nodes"]] == ["financial", "secrets", "zzz"]
    assert [first["pageInfo"]["hasNextPage"], second["pageInfo"]["hasNextPage"]] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [("first: 0", "first"), ("first: 101", "first"), ('after: "é"', "after"), ('after: "Zg"', "after")],
)
async def test_a_bad_page_is_the_callers_mistake(edge, arguments, field):
    error = await edge.error(f"{{ services({arguments}) {{ totalCount }} }}")
    assert (error["extensions"]["reason"], error["extensions"]["field"]) == ("INVALID_INPUT", field)


async def test_tools_of_all_pages_are_asked_for_once_on_the_callers_behalf(edge, signed):
    query = """{
        service(name: "financial") { tools(first: 2) { nodes { name readOnly inputSchema } totalCount } }
        again: service(name: "financial") { tools { nodes { name } } }
    }"""
    data = await edge.data(query)
    assert data["service"]["tools"]["totalCount"] == 3
    schema = {"type": "object"}
    assert data["service"]["tools"]["nodes"] == [
        {"name": "bond", "readOnly": None, "inputSchema": schema},
        {"name": "loan", "readOnly": True, "inputSchema": schema},
    ]
    assert [node["name"] for node in data["again"]["tools"]["nodes"]] == ["bond", "loan", "rate"]
    assert edge.bridge.asked == ["", "2"]
    assert {str(principal) for principal in signed} == {"key:am_root"}


async def test_an_agent_tells_its_card_and_its_tasks(edge):
    query = """{ agents { nodes {
        name service { instances { healthy } }
        card { version maxInputBytes skills(tag: "maths") { id inputSchema } }
        tasks(first: 5, states: [FAILED]) {
            nodes { id state sequence createTime error { reason } } pageInfo { hasNextPage endCursor } totalCount
        }
    } } }"""
    (agent,) = (await edge.data(query))["agents"]["nodes"]
    assert agent["card"] == {
        "version": "1.2.3",
        "maxInputBytes": 5 << 30,
        "skills": [{"id": "evaluate", "inputSchema": {"type": "string"}}],
    }
    assert agent["tasks"]["nodes"] == [
        {
            "id": "t1",
            "state": "FAILED",
            "sequence": 7,
            "createTime": "2026-01-02T03:04:05+00:00",
            "error": {"reason": "NO_PLAN"},
        }
    ]
    assert agent["tasks"]["pageInfo"] == {"hasNextPage": True, "endCursor": "more"}
    listed = edge.agent.asked[-1] if edge.agent.asked[-1] != "card" else edge.agent.asked[-2]
    assert (listed.page_size, list(listed.states)) == (5, [agent_pb2.TASK_STATE_FAILED])
    assert edge.agent.users == ["signed-for-key:am_root"]


async def test_revisions_come_newest_first_in_pages(edge):
    query = """query ($after: String) {
        revisions(first: 2, after: $after) { nodes { number status } pageInfo { hasNextPage endCursor } }
    }"""
    found, after = [], None
    for _ in range(3):
        page = (await edge.data(query, {"after": after}))["revisions"]
        found += [node["number"] for node in page["nodes"]]
        after = page["pageInfo"]["endCursor"]
    assert found == [5, 4, 3, 2, 1]
    assert not page["pageInfo"]["hasNextPage"]
    mark = base64.urlsafe_b64encode("²".encode()).decode()
    assert (await edge.error(query, {"after": mark}))["extensions"]["field"] == "after"


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("{ revisions { nodes { number } } }", "NOT_AUTHENTICATED"),
        ('{ agent(name: "von-neumann") { name } }', "UNKNOWN_SERVICE"),
        ('{ service(name: "secrets") { name } }', "UNKNOWN_SERVICE"),
        ('{ service(name: "no-such") { name } }', "UNKNOWN_SERVICE"),
        ('{ agent(name: "financial") { name } }', "NO_AGENT"),
    ],
)
async def test_what_one_may_not_have_is_refused_with_a_reason(edge, query, reason):
    error = await edge.error(query, headers={"x-mesh-user": ""})
    assert error["extensions"]["reason"] == reason
    assert edge.control_plane.asked == []


async def test_to_see_a_server_is_not_to_list_its_tools(edge):
    rules = {
        "roles": {
            "calls": {
                "allow": [
                    {"services": ["financial"], "tools": ["rate"]},
                    {"services": ["gateway"], "methods": ["/graphql"]},
                ],
                "deny": [{"services": ["financial"], "methods": ["agentmesh.mcp.v1.McpBridgeService/ListTools"]}],
            }
        },
        "bindings": {"guests": {"anonymous": True, "roles": ["calls"]}},
    }
    edge.knowledge.set_access(edge.world.access("2", rules=rules))
    answer = await edge.ask('{ service(name: "financial") { name tools { totalCount } } }', headers={"x-mesh-user": ""})
    assert answer["data"] == {"service": {"name": "financial", "tools": None}}
    assert answer["errors"][0]["extensions"]["reason"] == "NOT_AUTHENTICATED"
    assert edge.bridge.asked == []


async def test_what_does_not_answer_hides_nothing_else(edge):
    world = edge.world
    world.set_services(world.service("financial"), world.service("ghost"), world.service("gone", "agent"))
    query = "{ services { nodes { name tools { totalCount } agent { card { version } } } } }"
    answer = await edge.ask(query)
    assert answer["data"]["services"]["nodes"] == [
        {"name": "financial", "tools": {"totalCount": 3}, "agent": None},
        {"name": "ghost", "tools": None, "agent": None},
        {"name": "gone", "tools": None, "agent": {"card": None}},
    ]
    for error, name in zip(sorted(answer["errors"], key=str), ("ghost", "gone"), strict=True):
        assert error["message"] == f"There is no answer from {name} at the moment."
        assert error["extensions"] == {"reason": "UNAVAILABLE", "fix": "Try again.", "service": name}


async def test_what_was_asked_a_moment_ago_is_not_asked_again(edge):
    query = '{ service(name: "financial") { tools { totalCount } } }'
    for _ in range(3):
        await edge.data(query)
    assert edge.bridge.asked == ["", "2"]
    edge.world.set_services(edge.world.service("financial", version="2.0.0"))
    await edge.data(query)
    assert edge.bridge.asked == ["", "2"] * 2, "another version may have other tools"


async def test_many_copies_of_a_question_at_once_do_not_wait_for_one_that_was_given_up(edge):
    edge.agent.gate.clear()
    query = '{ agent(name: "von-neumann") { card { version } } }'
    given_up = asyncio.ensure_future(edge.ask(query))
    other = asyncio.ensure_future(edge.ask(query))
    while len(edge.agent.asked) < 2:
        await asyncio.wait((given_up, other), timeout=0.01)
    given_up.cancel()
    edge.agent.gate.set()
    assert (await other)["data"]["agent"]["card"]["version"] == "1.2.3"
