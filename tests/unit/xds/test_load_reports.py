"""Who is asked for load reports, how often, and what of them is kept."""

import pytest

from mesh.config.document import MeshDocument
from mesh.xds import LoadReports, subset_clusters
from mesh.xds.load import Report
from mesh.xds.load_reports import NOTHING


class Clock:
    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def reports(clock):
    return LoadReports(clock=clock)


def report(ok=0, errors=0):
    return Report(ok + errors, ok, errors, 0)


def take(reports, source, clock, **loads):
    clock.time += 1
    reports.take(source, {name: report(*load) for name, load in loads.items()})


def test_nobody_is_asked_for_anything_while_nobody_judges(reports):
    assert reports.order_for("a/1") == NOTHING


def test_judged_clusters_are_asked_of_every_proxy_each_second(reports):
    woken = []
    reports.connect("a/1", lambda: woken.append(1))
    with reports.judge(clusters=["v2.echo", "v1.echo"]):
        order = reports.order_for("a/1")
        assert (order.clusters, order.interval, order.is_all) == (("v1.echo", "v2.echo"), 1.0, False)
        assert woken == [1]
    assert reports.order_for("a/1") == NOTHING
    assert woken == [1, 1]


def test_a_judged_proxy_is_asked_for_all_of_its_clusters(reports):
    with reports.judge(nodes=["a/1"]):
        assert reports.order_for("a/1").is_all
        assert reports.order_for("a/2") == NOTHING


def test_a_thousand_proxies_report_less_often(reports):
    for number in range(1000):
        reports.connect(f"a/{number}", lambda: None)
    with reports.judge(clusters=["v1.echo"]):
        assert reports.order_for("a/1").interval == 5.0


def test_timed_clusters_that_nobody_judges_are_emptied_now_and_then(clock):
    reports = LoadReports(timed_clusters=lambda: ("v1.echo",), clock=clock)
    order = reports.order_for("a/1")
    assert order.clusters == ("v1.echo",)
    assert order.interval >= 60


def test_loads_of_a_cluster_are_summed_over_proxies_and_those_of_a_proxy_over_clusters(reports, clock):
    with reports.judge(clusters=["echo"], nodes=["a/1"]):
        since = clock.time
        first, second = reports.connect("a/1", lambda: None), reports.connect("b/1", lambda: None)
        take(reports, first, clock, echo=(8, 2), other=(0, 10))
        take(reports, second, clock, echo=(10, 0), other=(5, 0))
        assert reports.error_percent_of("echo", since) == 10.0
        assert reports.error_percent(["a/1"], since) == 60.0
        assert reports.load_of("other", since).requests == 0
        assert reports.load_at(["b/1"], since).requests == 0


def test_a_report_that_began_before_a_step_is_not_of_it(reports, clock):
    with reports.judge(clusters=["echo"]):
        source = reports.connect("a/1", lambda: None)
        clock.time += 0.5
        since = reports.now()
        take(reports, source, clock, echo=(0, 5))
        take(reports, source, clock, echo=(5, 0))
        assert reports.load_of("echo", since).error_percent == 0.0


def test_envoy_counts_from_the_order_on(reports, clock):
    source = reports.connect("a/1", lambda: None)
    clock.time += 500
    with reports.judge(clusters=["echo"]):
        since = reports.now()
        reports.note_ordered(source, reports.order_for("a/1"))
        take(reports, source, clock, echo=(3, 0))
        assert reports.load_of("echo", since).ok == 3


def test_what_was_counted_before_nobody_judged_is_not_held_against_a_step(clock):
    reports = LoadReports(timed_clusters=lambda: ("v2.echo",), clock=clock)
    source = reports.connect("a/1", lambda: None)
    reports.note_ordered(source, reports.order_for("a/1"))
    clock.time += 100
    with reports.judge(clusters=["v2.echo", "v1.echo"]):
        since = reports.now()
        reports.note_ordered(source, reports.order_for("a/1"))
        # Envoy was to report v2 before, so its first report goes back to then.
        take(reports, source, clock, **{"v2.echo": (0, 50), "v1.echo": (7, 0)})
        assert reports.load_of("v2.echo", since).requests == 0
        assert reports.load_of("v1.echo", since).ok == 7
        take(reports, source, clock, **{"v2.echo": (5, 0)})
        assert reports.load_of("v2.echo", since).ok == 5


def test_nothing_is_kept_when_the_judgement_is_over(reports, clock):
    source = reports.connect("a/1", lambda: None)
    with reports.judge(clusters=["echo"]), reports.judge(nodes=["a/1"]):
        take(reports, source, clock, echo=(1, 1))
    take(reports, source, clock, echo=(1, 1))
    assert (reports.load_of("echo", 0).requests, reports.load_at(["a/1"], 0).requests) == (0, 0)
    assert source.ledgers == {}


def test_two_judgements_of_one_cluster_end_one_by_one(reports):
    with reports.judge(clusters=["echo"]):
        with reports.judge(clusters=["echo"]):
            pass
        assert reports.order_for("a/1").clusters == ("echo",)


def test_asking_for_the_errors_of_proxies_has_them_judged_for_a_while(reports, clock):
    woken = []
    source = reports.connect("a/1", lambda: woken.append(1))
    since = clock.time
    assert reports.error_percent(frozenset({"a/1"}), since) is None
    assert woken and reports.order_for("a/1").is_all
    take(reports, source, clock, echo=(1, 1))
    assert reports.error_percent(frozenset({"a/1"}), since) == 50.0
    clock.time += 60
    woken.clear()
    take(reports, source, clock, echo=(1, 1))
    # The proxy's stream looks at its order again after each report, and so stops by itself.
    assert woken and reports.order_for("a/1") == NOTHING


def test_what_comes_to_rest_is_entered_though_envoy_leaves_it_out(reports, clock):
    with reports.judge(clusters=["v2.echo"]):
        source = reports.connect("a/1", lambda: None)
        reports.take(source, {})
        reports.take(source, {"v2.echo": Report(0, 0, 0, 0, {})})
        reports.take(source, {"v2.echo": Report(2, 0, 0, 1, {})})
        reports.take(source, {})
        assert reports.load_of("v2.echo", 0).unanswered == 2


def test_subsets_of_a_document_are_the_timed_clusters():
    document = MeshDocument.model_validate(
        {"services": {"b": {"subsets": {"v2": {"version": "2"}, "v1": {"version": "1"}}}, "a": {}}}
    )
    assert subset_clusters(document) == ("v1.b", "v2.b")
