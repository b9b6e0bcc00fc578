"""What `explain_call` says is what real Envoys do."""

import grpc
import pytest

from mesh.xds.explain import explain_call

pytestmark = pytest.mark.asyncio(loop_scope="session")

SUBSETS = {"one": {"version": "1.0"}, "two": {"version": "2.0"}, "none": {"version": "9"}}
DENY = {"action": "deny", "callers": ["caller"], "services": ["echo"]}
ALLOW = {"action": "allow", "callers": ["caller"], "services": ["echo"], "methods": ["echo.v1.Echo/*"]}
NO_SAY = DENY | {"methods": ["echo.v1.Echo/Say"]}

DOCUMENTS = [
    {},
    {"services": {"echo": {"subsets": SUBSETS, "split": {"echo/two": 1}}}},
    {"services": {"echo": {"subsets": SUBSETS, "split": {"echo/none": 1}}}},
    {"services": {"echo": {"subsets": SUBSETS, "routes": [
        {"name": "v1", "match": {"headers": {"x-user": {"present": True}}}, "to": "echo/one"},
        {"name": "not-ann", "match": {"headers": {"x-user": {"exact": "ann", "invert": True}}}, "to": "echo/two"},
    ]}}},
    {"services": {"echo": {"routes": [
        {"name": "m", "match": {"grpc": {"service": "echo.v1.Echo", "method": "Say"}}, "to": "backup"},
    ]}}},
    {"services": {"echo": {"authorities": ["bank.example.org"], "routes": [
        {"name": "a", "match": {"authority": {"suffix": ".org"}}, "to": "backup"},
    ]}}},
    {"services": {"caller": {"upstreams": ["backup"]}}},
    {"mesh": {"default_intention": "deny"}},
    {"mesh": {"default_intention": "deny"}, "intentions": {"yes": ALLOW}},
    {"intentions": {"no": DENY}},
    {"intentions": {"no": DENY | {"headers": {"x-user": "ann"}}}},
    {"mesh": {"default_intention": "deny"}, "intentions": {"yes": ALLOW, "no": NO_SAY}},
    {"intentions": {"no": DENY | {"services": ["backup"]}}, "services": {"echo": {"routes": [
        {"name": "b", "to": "backup"},
    ]}}},
    {"intentions": {"no": DENY | {"headers": {"x-mark": "1"}}}, "services": {"echo": {"routes": [
        {"name": "h", "headers": {"request": {"set": {"x-mark": "1"}}}},
    ]}}},
]  # fmt: skip
CALLS = [
    ("echo.mesh", "/echo.v1.Echo/Say", {}),
    ("echo.mesh", "/echo.v1.Echo/Say", {"x-user": "ann"}),
    ("echo.mesh", "/other.v1.Other/Do", {"x-user": "bob"}),
    ("bank.example.org", "/echo.v1.Echo/Say", {}),
]


@pytest.mark.parametrize("document", DOCUMENTS)
async def test_the_verdict_is_what_happens(world, document):
    await world.apply(document)
    for authority, method, headers in CALLS:
        told = explain_call(world.store.current, "caller", authority, method, headers)
        try:
            answer = await world.say(authority, method=method, metadata=tuple(headers.items()))
        except grpc.aio.AioRpcError as err:
            assert not told.is_allowed, (authority, method, headers, told, err)
            assert told.verdict.partition(":")[0] in (err.code().name, told.verdict)
        else:
            assert told.is_allowed, (authority, method, headers, told)
            places = {endpoint.partition(" ")[0] for it in told.targets for endpoint in it.endpoints}
            assert answer["app"] in places
