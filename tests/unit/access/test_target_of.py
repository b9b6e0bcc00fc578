import pytest
from google.api import httpbody_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2
from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as mcp
from mesh.access import Target
from mesh.access.target_of import plain_path, read_call
from mesh.errors import InvalidInput

MCP, AGENT = "agentmesh.mcp.v1.McpBridgeService", "agentmesh.agent.v1.AgentService"
CALL = f"/{MCP}/CallTool"


def frame(message, flag=0):
    data = message.SerializeToString()
    return bytes([flag]) + len(data).to_bytes(4) + data


DELETE = frame(mcp.CallToolRequest(name="delete", arguments=b'{"a": "b"}'))


def target(path, body=b"", *, is_grpc=True, is_partial=False):
    return read_call("u", path, body, is_grpc=is_grpc, is_partial=is_partial)[0]


def test_the_tool_is_that_of_the_message():
    assert read_call("u", CALL, DELETE, is_grpc=True) == (
        Target("u", f"{MCP}/CallTool", tool="delete"),
        b'{"a": "b"}',
    )
    invoke = mcp.InvokeToolRequest(name="delete", arguments=httpbody_pb2.HttpBody(data=b"{}"))
    assert read_call("u", f"/{MCP}/InvokeTool", frame(invoke), is_grpc=True) == (
        Target("u", f"{MCP}/InvokeTool", tool="delete"),
        b"{}",
    )


def test_the_skill_is_that_of_the_message():
    parts = [agent_pb2.Part(text="do it"), agent_pb2.Part(json=b'{"a": 1}')]
    body = frame(agent_service_pb2.SubmitTaskRequest(skill_id="risk", input=parts))
    assert read_call("a", f"/{AGENT}/SubmitTask", body, is_grpc=True) == (
        Target("a", f"{AGENT}/SubmitTask", skill="risk"),
        b'do it\n{"a": 1}',
    )


@pytest.mark.parametrize(
    "body",
    [
        DELETE + b"x",
        DELETE + DELETE,
        b"\x01" + DELETE[1:],
        frame(mcp.CallToolRequest()),
        b"\x00\x00\x00\x00\x03\x0a\xff\xff",
        b"\x00\x00\x00\x00\x03\x0a\x01\xff",
        frame(mcp.CallToolRequest(name="*")),
    ],
)
def test_a_message_that_cannot_be_read_asks_for_every_tool(body):
    assert target(CALL, body).tool == "*"


@pytest.mark.parametrize("body", [b"", b"\x00\x00", DELETE[:-1]])
def test_a_body_that_ends_before_its_message_is_refused_unless_more_of_it_is_to_come(body):
    with pytest.raises(InvalidInput):
        target(CALL, body)
    assert target(CALL, body, is_partial=True).tool == "*"


def test_the_last_name_counts_as_it_does_for_the_service():
    two = mcp.CallToolRequest(name="json").SerializeToString() + mcp.CallToolRequest(name="delete").SerializeToString()
    assert target(CALL, b"\x00" + len(two).to_bytes(4) + two).tool == "delete"


def test_links_ask_for_everything():
    assert target(f"/{MCP}/Link") == Target("u", f"{MCP}/Link", tool="*")
    assert target(f"/{AGENT}/Converse") == Target("u", f"{AGENT}/Converse", skill="*")


def test_other_methods_are_about_no_tool():
    assert target(f"/{MCP}/ListTools", DELETE) == Target("u", f"{MCP}/ListTools")
    assert target("/Greeter/SayHello") == Target("u", "Greeter/SayHello")


def test_a_path_of_grpc_is_one_whatever_the_content_says_it_is():
    assert target(CALL, DELETE, is_grpc=False) == Target("u", f"{MCP}/CallTool", tool="delete")
    assert target(f"/{MCP}/Link", is_grpc=False).tool == "*"


def test_paths_of_http_stay_paths():
    assert read_call("gateway", "/graphql", b"{}", is_grpc=False) == (Target("gateway", "/graphql"), b"{}")
    assert target("/.well-known/jwks.json", is_grpc=False) == Target("u", "/.well-known/jwks.json")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/graphql", "/graphql"),
        ("/graph%71l", "/graphql"),
        ("/%67raphql", "/graphql"),
        ("//graphql", "/graphql"),
        ("/./graphql", "/graphql"),
        ("/docs/../graphql", "/graphql"),
        ("/docs/%2e%2e/graphql", "/graphql"),
        ("/docs%2f..%2fgraphql", "/graphql"),
        ("/docs\\..\\graphql", "/graphql"),
        ("/oauth2/../../graphql", "/graphql"),
        ("/graphql/", "/graphql/"),
        ("/docs/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a%252fb", "/a%2fb"),
        ("/", "/"),
        ("", "/"),
        ("/.well-known/x", "/.well-known/x"),
        ("/a b", "/a b"),
        ("/caf%C3%A9", "/caf\u00e9"),
    ],
)
def test_there_is_one_way_to_spell_a_path(path, expected):
    assert plain_path(path) == expected


def test_a_tool_is_found_under_each_spelling_of_its_path():
    for path in (f"/{MCP}/CallToo%6c", f"//{MCP}/CallTool", f"/x/../{MCP}/CallTool"):
        assert target(path, DELETE, is_grpc=False) == Target("u", f"{MCP}/CallTool", tool="delete")


@given(st.text(st.sampled_from("/.%2eEfF5c\\ab;+*"), max_size=20))
@example("/%")
def test_plain_paths_have_no_steps_back_and_no_empty_ones(path):
    made = plain_path("/" + path)
    assert made.startswith("/")
    assert not {".", ".."} & set(made.split("/"))
    assert "" not in made.strip("/").split("/") or made == "/"


@given(st.binary(max_size=60))
def test_no_body_makes_it_fail(body):
    for path in (CALL, f"/{MCP}/InvokeTool", f"/{AGENT}/SubmitTask"):
        found = target(path, body, is_partial=True)
        assert found.tool or found.skill
