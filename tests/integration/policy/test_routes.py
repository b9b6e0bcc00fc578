"""Where requests go: matches, splits, mirrors, rewrites, header edits, subsets and fallbacks, through real Envoys."""

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")

WEB = {"protocol": "http1"}


def routed(*routes, service="echo", **more):
    return {"services": {service: {"routes": list(routes), **more}}}


def to_backup(match):
    return routed({"name": "chosen", "match": match, "to": "backup"})


async def test_a_split_is_roughly_what_the_weights_say(world):
    await world.apply({"services": {"echo": {"split": {"echo": 3, "backup": 1}}}})
    found = await world.who(200)
    assert 20 <= found["backup-1"] <= 85
    assert found["echo-1"] > 0 and found["echo-2"] > 0


async def test_a_weight_of_0_gets_nothing(world):
    await world.apply({"services": {"echo": {"split": {"echo": 0, "backup": 5}}}})
    assert await world.who(20) == {"backup-1": 20}


HEADERS = [
    ({"x-user": "ann"}, {"x-user": "ann"}, {"x-user": "anna"}),
    ({"x-user": {"prefix": "an"}}, {"x-user": "anna"}, {"x-user": "joan"}),
    ({"x-user": {"suffix": "na"}}, {"x-user": "anna"}, {"x-user": "nat"}),
    ({"x-user": {"contains": "nn"}}, {"x-user": "anna"}, {"x-user": "nan"}),
    ({"x-user": {"regex": "a[nm]+a"}}, {"x-user": "amna"}, {"x-user": "xanna"}),
    ({"x-user": {"present": True}}, {"x-user": ""}, {}),
    ({"x-user": {"present": False}}, {}, {"x-user": "ann"}),
    ({"x-user": {"exact": "ann", "invert": True}}, {"x-user": "bob"}, {"x-user": "ann"}),
    ({"x-user": {"exact": "ann", "invert": True}}, {}, {"x-user": "ann"}),
    ({"x-user": "ann", "x-place": "here"}, {"x-user": "ann", "x-place": "here"}, {"x-user": "ann"}),
]


@pytest.mark.parametrize(("headers", "hit", "miss"), HEADERS)
async def test_a_route_takes_the_headers_that_it_is_for(world, headers, hit, miss):
    await world.apply(to_backup({"headers": headers}))
    assert await world.who(1, metadata=tuple(hit.items())) == {"backup-1": 1}
    assert (await world.say(metadata=tuple(miss.items())))["app"].startswith("echo")


@pytest.mark.parametrize(
    ("match", "hit", "miss"),
    [
        ({"grpc": {"service": "echo.v1.Echo"}}, "/echo.v1.Echo/Any", "/echo.v1.Echoes/Any"),
        ({"grpc": {"service": "echo.v1.Echo", "method": "Say"}}, "/echo.v1.Echo/Say", "/echo.v1.Echo/SayMore"),
        ({"path": "/a.B/C"}, "/a.B/C", "/a.B/Cc"),
        ({"path": {"prefix": "/a."}}, "/a.B/C", "/b.B/C"),
        ({"path": {"suffix": "/C"}}, "/a.B/C", "/a.C/D"),
        ({"path": {"contains": ".v1."}}, "/a.v1.B/C", "/av1B/C"),
        ({"path": {"regex": "/a\\.[A-Z]/.*"}}, "/a.B/C", "/a.b/C"),
    ],
)
async def test_a_route_takes_the_methods_that_it_is_for(world, match, hit, miss):
    await world.apply(to_backup(match))
    assert (await world.say(method=hit))["app"] == "backup-1"
    assert (await world.say(method=miss))["app"].startswith("echo")


async def test_a_route_takes_the_authority_that_it_is_for(world):
    document = to_backup({"authority": {"prefix": "bank."}})
    document["services"]["echo"]["authorities"] = ["bank.example.org"]
    await world.apply(document)
    assert (await world.say("bank.example.org"))["app"] == "backup-1"
    assert (await world.say("echo.mesh"))["app"].startswith("echo")


async def test_a_service_is_called_by_its_further_authorities(world):
    await world.apply({"services": {"backup": {"authorities": ["bank.example.org"]}}})
    assert (await world.say("bank.example.org"))["app"] == "backup-1"


async def test_the_first_route_that_matches_counts(world):
    await world.apply(
        routed(
            {"name": "a", "match": {"headers": {"x-user": {"present": True}}}, "to": "echo/two"},
            {"name": "b", "match": {"headers": {"x-user": "ann"}}, "to": "backup"},
            subsets={"two": {"version": "2.0"}},
        )
    )
    assert await world.who(5, metadata=(("x-user", "ann"),)) == {"echo-2": 5}


async def test_subsets_are_chosen_by_version_and_by_metadata(world):
    subsets = {"one": {"version": "1.0"}, "silver": {"metadata": {"tier": "silver"}}, "none": {"version": "3.0"}}
    await world.apply(
        routed(
            {"name": "s", "match": {"headers": {"x-to": "silver"}}, "to": "echo/silver"},
            {"name": "n", "match": {"headers": {"x-to": "none"}}, "to": "echo/none"},
            subsets=subsets,
            split={"echo/one": 1},
        )
    )
    assert await world.who(10) == {"echo-1": 10}
    assert await world.who(10, metadata=(("x-to", "silver"),)) == {"echo-2": 10}
    assert (await world.code(metadata=(("x-to", "none"),))).name == "UNAVAILABLE"


async def test_a_new_version_moves_an_instance_to_another_subset(world):
    await world.apply(routed(subsets={"two": {"version": "2.0"}}, split={"echo/two": 1}))
    assert await world.who(5) == {"echo-2": 5}
    try:
        await world.set_instances({"echo-1": {"version": "2.0"}, "echo-2": {"version": "1.0"}})
        assert await world.who(5) == {"echo-1": 5}
    finally:
        await world.set_instances({"echo-1": {"version": "1.0"}, "echo-2": {"version": "2.0"}})


async def test_a_mirror_gets_a_copy_and_the_caller_the_answer_of_the_service(world, eventually):
    await world.apply(routed({"name": "m", "mirror": {"to": "backup"}}))
    assert (await world.say())["app"].startswith("echo")

    async def has_arrived():
        return len(world.apps["backup-1"].requests) == 1

    await eventually(has_arrived)


async def test_a_fallback_answers_while_there_is_no_healthy_instance(world):
    await world.apply({"services": {"echo": {"fallback": ["backup"]}}})
    assert "backup-1" not in await world.who(20)
    try:
        await world.set_instances({"echo-1": {"is_healthy": False}, "echo-2": {"is_healthy": False}})
        assert await world.who(10) == {"backup-1": 10}
    finally:
        await world.set_instances({"echo-1": {"is_healthy": True}, "echo-2": {"is_healthy": True}})
    assert "backup-1" not in await world.who(20)


async def test_a_fallback_of_a_fallback_is_the_last_resort(world):
    subsets = {"none": {"version": "3.0"}}
    document = {
        "services": {
            "echo": {"fallback": ["web"]},
            "web": {"fallback": ["backup"], **WEB},
            "backup": {"subsets": subsets},
        }
    }
    await world.apply(document)
    away = {name: {"is_healthy": False} for name in ("echo-1", "echo-2", "web-1")}
    try:
        await world.set_instances(away)
        assert await world.who(5) == {"backup-1": 5}
    finally:
        await world.set_instances({name: {"is_healthy": True} for name in away})


async def test_headers_are_set_added_and_removed_both_ways(world):
    headers = {
        "request": {"set": {"x-a": "100%", "x-key": {"secret": "env:KEY"}}, "add": {"x-b": "2"}, "remove": ["x-c"]},
        "response": {"set": {"x-d": "%REQ(x-b)%"}},
    }
    await world.apply(routed({"name": "h", "headers": headers}), secrets={"env:KEY": "hush"})
    call = world.channel("echo.mesh").unary_unary("/echo.v1.Echo/Say")
    sent = (("x-a", "1"), ("x-b", "1"), ("x-c", "1"))
    got = await world.say(metadata=sent)
    found = {name: got["metadata"].get(name) for name in ("x-a", "x-b", "x-c", "x-key")}
    assert found["x-a"] == "100%"
    assert found["x-key"] == "hush"
    assert found["x-c"] is None
    assert found["x-b"] in ("1,2", "2", "1, 2")
    assert dict(await call(b"", timeout=5).initial_metadata())["x-d"] == "%REQ(x-b)%"


async def test_an_http_1_service_is_called_from_http_1(world):
    await world.apply({"services": {"web": WEB}})
    async with world.get("/hello?a=b") as response:
        assert (response.status, (await response.json())["path"]) == (200, "/hello?a=b")


async def test_an_http_method_and_a_path_without_its_query_are_matched(world):
    answer = {"headers": {"response": {"set": {"x-route": "chosen"}}}}
    match = {"http_method": "DELETE", "path": "/things"}
    await world.apply(routed({"name": "c", "match": match, **answer}, service="web", **WEB))
    for method, path, is_hit in (("DELETE", "/things?x=1", True), ("GET", "/things", False), ("DELETE", "/", False)):
        async with world.get(path, method=method) as response:
            assert ("x-route" in response.headers) is is_hit


@pytest.mark.parametrize(
    ("rewrite", "match", "path", "expected"),
    [
        ({"prefix": "/v2/"}, {"path": {"prefix": "/v1/"}}, "/v1/a?b=c", "/v2/a?b=c"),
        ({"regex": "^/users/([^/]+)/(.*)$", "substitution": "/\\2/of/\\1"}, {}, "/users/ann/cars", "/cars/of/ann"),
    ],
)
async def test_a_path_is_rewritten(world, rewrite, match, path, expected):
    await world.apply(routed({"name": "r", "match": match, "rewrite": rewrite}, service="web", **WEB))
    async with world.get(path) as response:
        assert (await response.json())["path"] == expected


async def test_an_authority_is_rewritten(world):
    await world.apply(routed({"name": "r", "rewrite": {"authority": "inner.example"}}, service="web", **WEB))
    async with world.get("/") as response:
        assert (await response.json())["headers"]["host"] == "inner.example"


async def test_routes_hold_at_the_edge_by_header_and_by_authority(world):
    await world.apply(to_backup({"headers": {"x-user": "ann"}}))
    import grpc

    target = str(world.envoys["gateway"].spec.edge)
    for authority, chosen in (("echo.localhost", ()), ("other", (("x-mesh-service", "echo"),))):
        options = [("grpc.default_authority", authority)]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            say = channel.unary_unary("/echo.v1.Echo/Say")
            assert b'"backup-1"' in await say(b"", metadata=(*chosen, ("x-user", "ann")), timeout=5)
            assert b'"echo-' in await say(b"", metadata=chosen, timeout=5)
