"""Real Envoys take whatever document our own checks let through: 100 random ones, one after the other.

After each of them every Envoy has exactly the clusters, routes, listeners and endpoints of its snapshot (World.settle).
"""

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mesh.config.document import Layer, check_references, load_document
from mesh.errors import DocumentInvalid

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVICES = ("backup", "caller", "echo", "gateway", "web")
TARGETS = ("backup", "echo", "echo/gold", "echo/v1", "echo/v2", "web")
HEADERS = ("x-one", "x-two", "user-agent")
CONDITIONS = ("5xx", "cancelled", "connect-failure", "gateway-error", "internal", "reset", "unavailable")
CODES = ("ABORTED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE")

words = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_./%* ", min_size=1, max_size=12)
counts = st.integers(1, 1000)
percents = st.one_of(st.integers(0, 100), st.floats(0, 100, allow_nan=False))
durations = st.integers(1, 60_000).map(lambda ms: f"{ms}ms")
targets = st.sampled_from(TARGETS)
splits = st.dictionaries(targets, st.integers(0, 1000), min_size=1, max_size=3)


def some(**fields):
    """A mapping with any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


texts = st.one_of(
    words,
    st.fixed_dictionaries({"prefix": words}),
    st.fixed_dictionaries({"suffix": words}),
    st.fixed_dictionaries({"contains": words}),
    st.fixed_dictionaries({"regex": st.sampled_from(("a+b*", "[0-9]{1,3}", "(?i)yes|no", "^x.*$", r"\d+\.\w"))}),
)
matches = st.dictionaries(
    st.sampled_from(HEADERS),
    st.one_of(texts, st.fixed_dictionaries({"present": st.booleans()}, optional={"invert": st.booleans()})),
    max_size=2,
)
faults = st.one_of(
    st.fixed_dictionaries({"delay": st.fixed_dictionaries({"duration": durations}, optional={"percent": percents})}),
    st.fixed_dictionaries(
        {"abort": st.fixed_dictionaries({"grpc": st.sampled_from(CODES)}, optional={"percent": percents})},
        optional={"headers": matches, "callers": st.lists(st.sampled_from(SERVICES), max_size=2)},
    ),
    st.fixed_dictionaries({"abort": st.fixed_dictionaries({"http": st.integers(200, 599)})}),
)
retries = some(
    attempts=st.integers(0, 10),
    on=st.lists(st.sampled_from(CONDITIONS), max_size=4),
    per_try_timeout=durations,
    backoff=st.integers(1, 50).map(lambda ms: f"{ms}ms"),
    max_backoff=st.integers(100, 5000).map(lambda ms: f"{ms}ms"),
    hedge=st.booleans(),
)
limits = st.fixed_dictionaries(
    {"requests": counts},
    optional={
        "per": st.integers(50, 60_000).map(lambda ms: f"{ms}ms"),
        "burst": counts,
        "scope": st.sampled_from(("instance", "connection")),
    },
)
balancing = st.one_of(
    some(policy=st.sampled_from(("least_request", "random", "round_robin")), slow_start=durations),
    st.fixed_dictionaries(
        {
            "policy": st.sampled_from(("maglev", "ring_hash")),
            "hash_on": st.lists(
                st.sampled_from(("cookie:c", "header:x-one", "query:q", "source_ip")),
                min_size=1,
                max_size=3,
                unique=True,
            ),
        },
        optional={"table_size": st.sampled_from((251, 65_537)), "min_ring_size": counts},
    ),
)
policies = {
    "load_balancing": balancing,
    "circuit_breaker": some(
        max_connections=counts, max_pending_requests=counts, max_requests=counts, retry_budget_percent=percents
    ),
    "outlier_detection": some(
        enabled=st.booleans(),
        interval=durations,
        max_ejection_percent=st.integers(0, 100),
        consecutive_gateway_failures=st.integers(0, 100),
        failure_percentage=st.integers(1, 100),
    ),
    "health_check": some(kind=st.sampled_from(("grpc", "http", "tcp")), interval=durations, timeout=durations),
    "connections": some(
        connect_timeout=durations, idle_timeout=durations, max_requests_per_connection=counts, max_inbound=counts
    ),
    "concurrency": some(adaptive=some(min_concurrency=st.integers(1, 10), sample_window=durations)),
    "rate_limit": limits,
    "timeout": durations,
    "idle_timeout": durations,
    "retry": retries,
    "fault": faults,
}
routes = st.fixed_dictionaries(
    {
        "match": some(
            authority=texts,
            path=texts.map(lambda text: f"/{text}" if isinstance(text, str) else text),
            http_method=st.sampled_from(("GET", "POST")),
            headers=matches,
        )
    },
    optional={
        "to": targets,
        "split": splits,
        "mirror": st.fixed_dictionaries({"to": targets}, optional={"percent": percents}),
        "rewrite": some(authority=st.sampled_from(("a.test", "b.test")), prefix=st.just("/p")),
        "timeout": durations,
        "idle_timeout": durations,
        "retry": retries,
        "headers": some(
            request=some(set=st.dictionaries(st.sampled_from(HEADERS[:2]), words, max_size=2)),
            response=some(remove=st.lists(st.sampled_from(HEADERS), max_size=2, unique=True)),
        ),
        "fault": faults,
        "rate_limit": limits,
    },
)
echoes = some(
    **policies,
    routes=st.lists(routes, max_size=4),
    split=splits,
    fallback=st.lists(st.sampled_from(("backup", "web", "echo/v2")), max_size=2, unique=True),
    authorities=st.lists(st.sampled_from(("one.test", "two.test")), max_size=2, unique=True),
)
intentions = st.lists(
    st.fixed_dictionaries(
        {
            "action": st.sampled_from(("allow", "deny")),
            "callers": st.lists(st.sampled_from(("*", *SERVICES)), min_size=1, max_size=2),
            "services": st.lists(st.sampled_from(("*", *SERVICES)), min_size=1, max_size=2),
        },
        optional={
            "methods": st.lists(
                st.sampled_from(("*", "echo.v1.Echo/*", "echo.v1.Echo/Say", "/a/b", "/a/*")), min_size=1, max_size=2
            ),
            "headers": matches,
        },
    ),
    max_size=3,
)


@st.composite
def documents(draw):
    """A document about echo, with all that the model has; some of them our checks refuse."""
    echo = draw(echoes)
    echo["subsets"] = {"v1": {"version": "1.0"}, "v2": {"version": "2.0"}, "gold": {"metadata": {"tier": "gold"}}}
    echo["routes"] = [{"name": f"r{number}", **route} for number, route in enumerate(echo.get("routes", ()))]
    named = {f"i{number}": intention for number, intention in enumerate(draw(intentions))}
    return {
        "mesh": draw(some(default_intention=st.sampled_from(("allow", "deny")))),
        "defaults": draw(some(**policies)),
        "services": {"echo": echo, "web": {"protocol": "http1"}},
        "intentions": named,
    }


def is_valid(document):
    try:
        loaded = load_document([Layer("operator", "random", yaml.safe_dump(document))])
    except DocumentInvalid:
        return False
    return not check_references(loaded, SERVICES)


@given(document=documents())
@settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much, HealthCheck.too_slow],
)
async def test_envoys_take_every_document_that_is_valid(world, document):
    assume(is_valid(document))
    await world.apply(document)


async def test_after_all_that_calls_work_as_on_the_first_day(world):
    await world.apply()
    assert (await world.say())["app"] in {"echo-1", "echo-2"}
