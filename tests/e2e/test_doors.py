"""Every door of the edge, with every kind of credential: through real Envoys, on TLS."""

import asyncio
import base64
import json
import ssl
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import jwt
import pytest
from google.rpc import status_pb2

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as mcp
from agentmesh.mcp.v1 import mcp_bridge_service_pb2_grpc as mcp_grpc
from mesh.access.signing_keys import SigningKeys

MESH = """\
services:
  financial:
    kind: mcp
    command: [python, -m, services.financial]
"""
OFTEN = 60
DOCUMENT = f"""\
access:
  bindings:
    everybody: null
edge:
  limits:
    often: {{scope: global, per: [principal], requests: {OFTEN}, window: 3600s}}
"""
ARGUMENTS = {"rate": 0.1, "cash_flows": [-1000, 400, 400, 400]}
NPV = -5.259203606311132
CALL = "/agentmesh.mcp.v1.McpBridgeService/InvokeTool"
TIMEOUT = aiohttp.ClientTimeout(total=15)

NONE, BAD, EXPIRED, WITHOUT_RIGHT, WITH_RIGHT, OVER_LIMIT = CREDENTIALS = (
    "no credential",
    "a bad one",
    "an expired one",
    "one without the right",
    "one with the right",
    "one over its limit",
)
OUTCOMES = {NONE: 401, BAD: 401, EXPIRED: 401, WITHOUT_RIGHT: 403, WITH_RIGHT: 200, OVER_LIMIT: 429}
CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@dataclass
class Edge:
    """The edge of a mesh in which nobody is anybody without a credential."""

    url: str
    authority: bytes
    headers: dict[str, dict[str, str]]
    mesh: Any

    @property
    def target(self) -> str:
        return self.url.removeprefix("https://")

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.authority.decode())

    def session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(self.url, connector=aiohttp.TCPConnector(ssl=self.context()), timeout=TIMEOUT)


@pytest.fixture(scope="module")
def edge(start_mesh, tmp_path_factory):
    folder = tmp_path_factory.mktemp("doors")
    (folder / "mesh.yaml").write_text(MESH)
    (folder / "document.yaml").write_text(DOCUMENT)
    with start_mesh(folder / "mesh.yaml") as mesh:
        applied = mesh.meshctl("apply", "--yes", str(folder / "document.yaml"))
        assert applied.returncode == 0, applied.stderr

        def key(*words: str) -> str:
            return mesh.json("keys", "create", *words)["secret"]

        expired = key("--role", "caller", "--expires", "1s")
        headers = {
            NONE: {},
            BAD: {"x-api-key": key("--role", "caller")[:-1] + "!"},
            WITHOUT_RIGHT: {"x-api-key": key()},
            WITH_RIGHT: {"x-api-key": key("--role", "caller")},
            OVER_LIMIT: {"x-api-key": key("--role", "caller")},
            EXPIRED: {"x-api-key": expired},
        }
        authority = (mesh.state_dir / "edge" / "ca.pem").read_bytes()
        found = Edge(f"https://{mesh.env['MESH_GATEWAY_TLS_BIND']}", authority, headers, mesh)
        asyncio.run(use_up(found))
        yield found


async def use_up(edge: Edge) -> None:
    """Until the credential over its limit is that, and the expired one has ended."""
    async with edge.session() as session, asyncio.timeout(30):
        for credential, wanted in ((OVER_LIMIT, 429), (EXPIRED, 401)):
            while True:
                async with session.get("/v1/auth/whoami", headers=edge.headers[credential]) as response:
                    if response.status == wanted:
                        break


async def http(edge: Edge, headers: dict[str, str], method: str, path: str, **what: Any) -> tuple[int, Any]:
    async with edge.session() as session, session.request(method, path, headers=headers, **what) as response:
        if response.content_type == "text/event-stream":
            return response.status, (await response.content.readline()).decode()
        body = await response.read()
        if response.status >= 400:
            assert response.content_type == "application/problem+json", (response.headers, body)
            problem = json.loads(body)
            assert problem["status"] == response.status
            assert problem["type"] == "about:blank"
            assert problem["detail"], problem
            assert problem["title"] != "Error"
            assert (response.status == 401) == ("www-authenticate" in response.headers)
            assert (response.status == 429) == ("retry-after" in response.headers)
        is_json = response.content_type.endswith("json")
        return response.status, json.loads(body) if is_json else body.decode()


async def by_rest(edge: Edge, headers: dict[str, str]) -> int:
    path = "/v1/servers/financial/tools/npv:invoke"
    status, body = await http(edge, headers, "POST", path, json=ARGUMENTS)
    assert status != 200 or body["structuredContent"]["npv"] == NPV
    return status


async def by_grpc(edge: Edge, headers: dict[str, str]) -> int:
    credentials = grpc.ssl_channel_credentials(edge.authority)
    async with grpc.aio.secure_channel(edge.target, credentials) as channel:
        stub: Any = mcp_grpc.McpBridgeServiceStub(channel)
        request = mcp.CallToolRequest(name="npv", arguments=json.dumps(ARGUMENTS).encode())
        metadata = (("x-mesh-service", "financial"), *headers.items())
        try:
            news = [piece async for piece in stub.CallTool(request, metadata=metadata, timeout=15)]
        except grpc.aio.AioRpcError as err:
            assert err.details()
            status = next(known for known, code in CODES.items() if code is err.code())
            details = dict(err.trailing_metadata() or ()).get("grpc-status-details-bin")
            if status != 429:
                assert status_pb2.Status.FromString(details).code == err.code().value[0]
            return status
    assert json.loads(news[-1].result.structured_content)["npv"] == NPV
    return 200


async def by_grpc_web(edge: Edge, headers: dict[str, str]) -> int:
    message = mcp.ListToolsRequest().SerializeToString()
    body = b"\0" + len(message).to_bytes(4) + message
    given = {
        "content-type": "application/grpc-web+proto",
        "accept": "application/grpc-web+proto",
        "x-grpc-web": "1",
        "x-mesh-service": "financial",
        **headers,
    }
    path = "/agentmesh.mcp.v1.McpBridgeService/ListTools"
    async with edge.session() as session, session.post(path, data=body, headers=given) as response:
        assert response.status == 200
        found = response.headers.get("grpc-status")
        content = await response.read()
        if found is None:
            length = int.from_bytes(content[1:5])
            assert mcp.ListToolsResponse.FromString(content[5 : 5 + length]).tools
            assert b"grpc-status:0" in content[5 + length :].replace(b" ", b"")
            return 200
        return next(status for status, code in CODES.items() if code.value[0] == int(found))


async def by_connect(edge: Edge, headers: dict[str, str]) -> int:
    """In JSON, as a page of a browser would."""
    given = {"connect-protocol-version": "1", "x-mesh-service": "financial", **headers}
    path = "/agentmesh.mcp.v1.McpBridgeService/ListTools"
    status, body = await http(edge, given, "POST", path, json={})
    assert status != 200 or body["tools"]
    return status


async def by_graphql(edge: Edge, headers: dict[str, str]) -> int:
    query = '{ service(name: "financial") { tools(first: 3) { totalCount } } }'
    status, body = await http(edge, headers, "POST", "/graphql", json={"query": query})
    assert status != 200 or body["data"]["service"]["tools"]["totalCount"] > 3
    return status


async def by_events(edge: Edge, headers: dict[str, str]) -> int:
    status, body = await http(edge, headers, "GET", "/events")
    assert status != 200 or body.startswith("retry:")
    return status


async def by_websocket(edge: Edge, headers: dict[str, str]) -> int:
    async with edge.session() as session:
        try:
            async with session.ws_connect("/ws", headers=headers) as socket:
                assert (await socket.receive_json(timeout=10))["type"] == "ready"
                return 200
        except aiohttp.WSServerHandshakeError as err:
            return err.status


async def by_catalog(edge: Edge, headers: dict[str, str]) -> int:
    status, body = await http(edge, headers, "GET", "/v1/services")
    assert status != 200 or {service["name"] for service in body["services"]} >= {"financial"}
    return status


async def by_description(edge: Edge, headers: dict[str, str]) -> int:
    status, body = await http(edge, headers, "GET", "/openapi.json")
    assert status != 200 or body["openapi"].startswith("3.1")
    return status


async def by_page(edge: Edge, headers: dict[str, str]) -> int:
    status, body = await http(edge, headers, "GET", "/docs")
    assert status != 200 or "<title>agentmesh API</title>" in body
    return status


async def call_by_mcp(edge: Edge, headers: dict[str, str], path: str, tool: str) -> int:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": tool, "arguments": ARGUMENTS, "_meta": meta}
    given = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": tool,
        **headers,
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    status, body = await http(edge, given, "POST", path, json=message)
    assert status != 200 or body["result"]["structuredContent"]["npv"] == NPV
    return status


async def by_mcp(edge: Edge, headers: dict[str, str]) -> int:
    return await call_by_mcp(edge, headers, "/servers/financial/mcp", "npv")


async def by_mcp_of_all(edge: Edge, headers: dict[str, str]) -> int:
    return await call_by_mcp(edge, headers, "/mcp", "financial__npv")


DOORS = (
    by_rest,
    by_grpc,
    by_grpc_web,
    by_connect,
    by_graphql,
    by_events,
    by_websocket,
    by_catalog,
    by_description,
    by_page,
    by_mcp,
    by_mcp_of_all,
)


@pytest.mark.parametrize("credential", CREDENTIALS)
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__.removeprefix("by_"))
async def test_each_door_answers_each_credential_as_it_should(edge, door, credential):
    assert await door(edge, edge.headers[credential]) == OUTCOMES[credential]


def signed(edge: Edge, **claims: Any) -> str:
    """A token that the mesh's own issuer could have signed."""
    key = SigningKeys(edge.mesh.state_dir / "ca" / "access").all()[-1]
    now = int(time.time())
    facts = {"iss": "agentmesh", "aud": "agentmesh", "sub": "ada", "kind": "user", "iat": now, "exp": now + 60}
    return jwt.encode(facts | claims, key.load(), algorithm=key.algorithm, headers={"kid": key.id})


async def test_tokens_are_good_as_long_as_they_and_their_user_are(edge):
    mesh = edge.mesh
    password = mesh.state_dir / "password"
    password.write_text("correct horse battery\n")
    assert mesh.meshctl("users", "create", "ada", "--role", "caller", "--password-file", str(password)).returncode == 0
    login = mesh.meshctl("login", "--user", "ada", "--password-file", str(password))
    assert login.returncode == 0, login.stderr
    assert mesh.json("whoami")["principal"] == "user:ada"
    token = mesh.meshctl("access-token").stdout.strip()

    async def status_with(text: str) -> int:
        bearer = {"authorization": f"Bearer {text}"}
        status = await by_rest(edge, bearer)
        # This door is told by Envoy what is in a token, and decides by itself.
        assert await by_mcp(edge, bearer) == status
        return status

    assert await status_with(token) == 200
    assert await status_with(signed(edge)) == 200
    for claims in ({"exp": int(time.time()) - 60}, {"aud": "others"}, {"iss": "others"}, {"sub": "nobody"}):
        assert await status_with(signed(edge, **claims)) == 401
    head, payload, end = token.split(".")
    forged = base64.urlsafe_b64encode(base64.urlsafe_b64decode(payload + "==").replace(b'"ada"', b'"bob"'))
    assert await status_with(f"{head}.{forged.rstrip(b'=').decode()}.{end}") == 401
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    assert await status_with(f"{none}.{payload}.") == 401

    assert mesh.meshctl("users", "disable", "ada").returncode == 0
    async with asyncio.timeout(1.5):
        while await status_with(token) != 401:
            pass
    assert mesh.meshctl("login", "--user", "ada", "--password-file", str(password)).returncode == 1


async def test_a_client_gets_a_token_for_its_key_and_none_any_more_after_its_end(edge):
    made = edge.mesh.json("keys", "create", "--role", "caller", "--label", "robot")
    form = {"grant_type": "client_credentials"}
    basic = {"authorization": aiohttp.encode_basic_auth(made["id"], made["secret"])}
    async with edge.session() as session:
        async with session.post("/oauth2/token", data=form, headers=basic) as response:
            assert response.status == 200, await response.text()
            token = (await response.json())["access_token"]
        bearer = {"authorization": f"Bearer {token}"}
        assert await by_rest(edge, bearer) == 200
        assert edge.mesh.meshctl("keys", "revoke", made["id"]).returncode == 0
        async with asyncio.timeout(1):
            while await by_rest(edge, bearer) != 401:
                pass
        async with session.post("/oauth2/token", data=form, headers=basic) as response:
            assert (response.status, (await response.json())["error"]) == (401, "invalid_client")
        async with session.post("/oauth2/token", data={"grant_type": "password"}) as response:
            assert (response.status, (await response.json())["error"]) == (400, "unsupported_grant_type")


async def test_a_page_of_a_browser_shows_its_token_in_the_query_of_events(edge):
    made = edge.mesh.json("keys", "create", "--role", "caller")
    basic = {"authorization": aiohttp.encode_basic_auth(made["id"], made["secret"])}
    async with edge.session() as session:
        async with session.post("/oauth2/token", data={"grant_type": "client_credentials"}, headers=basic) as response:
            token = (await response.json())["access_token"]
        async with session.ws_connect(f"/ws?access_token={token}") as socket:
            assert (await socket.receive_json(timeout=10))["type"] == "ready"
        async with session.get(f"/events?access_token={token}") as response:
            assert response.status == 200
        # Elsewhere a token in the query is none: queries stand in logs.
        async with session.get(f"/v1/auth/whoami?access_token={token}") as response:
            assert response.status == 401


async def test_what_was_decided_is_in_the_audit_and_its_chain_is_whole(edge):
    assert await by_rest(edge, edge.headers[WITHOUT_RIGHT]) == 403
    assert await by_rest(edge, edge.headers[BAD]) == 401

    def noted() -> set[tuple[str, str]]:
        return {(entry["decision"], entry["reason"]) for entry in edge.mesh.json("audit", "show", "--last", "200")}

    wanted = {("refused", "NO_RULE"), ("refused", "KEY_UNKNOWN"), ("allowed", "ALLOWED")}
    edge.mesh.wait_for(lambda: noted() >= wanted)
    assert edge.mesh.meshctl("audit", "verify").returncode == 0
    log = next((edge.mesh.state_dir / "audit").glob("*/audit-*.jsonl"))
    assert log.stat().st_mode & 0o777 == 0o600
    secrets = [headers["x-api-key"][16:-1] for headers in edge.headers.values() if headers]
    assert not any(secret in log.read_text() for secret in secrets)


async def test_headers_of_the_mesh_do_not_get_in_and_credentials_do_not_get_through(edge):
    forged = {
        "x-mesh-user": jwt.encode({"kind": "user", "name": "root", "sub": "user:root"}, "x" * 32),
        "x-envoy-original-path": "/healthz",
        "x-envoy-external-address": "10.1.2.3",
        "x-forwarded-for": "10.1.2.3",
        "x-forwarded-client-cert": "URI=spiffe://agentmesh.local/ns/default/svc/control-plane",
        "x-client-authorization": "Basic eDp5",
        "x-mesh-tokens": json.dumps({"own": {"sub": "root", "kind": "user"}, "issuer.any": {"sub": "root"}}),
        "x-mesh-peer": "spiffe://agentmesh.local/ns/default/svc/control-plane",
    }
    assert await by_rest(edge, forged) == 401
    assert await by_mcp(edge, forged) == 401
    assert await by_mcp(edge, forged | edge.headers[WITHOUT_RIGHT]) == 403
    status, body = await http(edge, forged | edge.headers[WITH_RIGHT], "GET", "/v1/auth/whoami")
    assert (status, body["kind"]) == (200, "key")
    entry = edge.mesh.json("audit", "show", "--last", "1")[0]
    assert entry["client"] == "127.0.0.1"


async def test_a_change_is_heard_on_every_live_door_and_not_any_more_after_the_end_of_the_key(edge, tmp_path):
    made = edge.mesh.json("keys", "create", "--role", "caller")
    headers = {"x-api-key": made["secret"]}
    document = tmp_path / "document.yaml"
    document.write_text(f"{DOCUMENT}defaults:\n  retry:\n    attempts: 4\n")
    async with (
        edge.session() as session,
        session.get("/events?types=config.changed", headers=headers) as response,
        session.ws_connect("/ws?types=config.changed", headers=headers) as socket,
    ):
        assert (await socket.receive_json(timeout=10))["type"] == "ready"
        applied = await asyncio.to_thread(edge.mesh.meshctl, "apply", "--yes", str(document))
        assert applied.returncode == 0, applied.stderr
        event = await socket.receive_json(timeout=10)
        assert event["type"] == "config.changed"
        assert event["data"]["revision"] > 1
        revoked = await asyncio.to_thread(edge.mesh.meshctl, "keys", "revoke", made["id"])
        assert revoked.returncode == 0, revoked.stderr
        close = await socket.receive(timeout=5)
        assert (close.data, close.extra.partition(":")[0]) == (1008, "KEY_REVOKED")
        text = (await response.read()).decode()
        assert f"id: {event['id']}\nevent: config.changed\n" in text
        assert '"reason":"KEY_REVOKED"' in text.rpartition("event: closed\n")[2]
