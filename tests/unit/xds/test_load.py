"""Counting requests: what reports add up to, what callers gave up, how long answers took."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.xds.load import Ledger, Load, Report, Series, add_loads, round_latency


def test_a_failed_share_is_of_all_that_ended():
    load = Load(ok=8, errors=1, unanswered=1)
    assert (load.requests, load.failed, load.error_percent) == (10, 2, 20.0)
    assert Load().error_percent is None


def test_a_quantile_is_the_latency_that_the_share_did_not_exceed():
    load = Load(ok=100, latencies={1: 50, 10: 48, 200: 2})
    assert (load.quantile(0.5), load.quantile(0.98), load.quantile(0.99)) == (1, 10, 200)
    assert load.slower_than(10) == 2
    assert Load(ok=5).quantile(0.99) is None


def test_an_unanswered_request_took_longer_than_any_bound():
    load = Load(ok=9, unanswered=1, latencies={5: 9})
    assert load.quantile(0.9) == 5
    assert load.quantile(0.99) == math.inf
    assert load.slower_than(1e9) == 1


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**9))
def test_a_latency_is_rounded_by_five_percent_at_most(milliseconds):
    assert abs(round_latency(milliseconds) - milliseconds) <= 0.05 * milliseconds


def test_sums_of_loads_keep_every_request():
    total = add_loads([Load(1, 2, 3, {5: 1}), Load(4, 5, 6, {5: 2, 7: 1})])
    assert (total.ok, total.errors, total.unanswered, dict(total.latencies)) == (5, 7, 9, {5: 3, 7: 1})


@pytest.fixture
def ledger():
    """A ledger that has seen a first report, so that it knows what is under way."""
    ledger = Ledger()
    ledger.enter(Report.at_rest(is_timed=True))
    return ledger


def test_a_request_that_never_got_an_answer_is_unanswered(ledger):
    # Envoy 1.40, caller's deadline passed: one in the first report already, one still under way.
    assert ledger.enter(Report(issued=2, ok=0, errors=0, in_progress=1, answered={})).unanswered == 1
    assert ledger.enter(Report.at_rest(is_timed=True)).unanswered == 1


def test_a_stream_that_its_caller_ends_is_no_failure(ledger):
    assert ledger.enter(Report(issued=3, ok=0, errors=0, in_progress=3, answered={1: 3})) == Load(latencies={1: 3})
    assert ledger.enter(Report(issued=0, ok=1, errors=0, in_progress=0, answered={})) == Load(ok=1)


def test_a_server_that_dies_fails_its_requests_once(ledger):
    load = ledger.enter(Report(issued=4, ok=0, errors=4, in_progress=0, answered={}))
    assert (load.errors, load.unanswered) == (4, 0)


def test_failed_connections_are_errors_that_were_never_issued(ledger):
    load = ledger.enter(Report(issued=0, ok=0, errors=9, in_progress=0, answered={}))
    assert (load.errors, load.unanswered) == (9, 0)


def test_a_request_is_no_failure_while_it_is_under_way(ledger):
    assert ledger.enter(Report(issued=5, ok=0, errors=0, in_progress=5, answered={})).requests == 0
    assert ledger.enter(Report(issued=0, ok=5, errors=0, in_progress=0, answered={30: 5})).requests == 5


def test_what_was_under_way_before_the_first_report_is_not_missed():
    ledger = Ledger()
    assert ledger.enter(Report(issued=0, ok=2, errors=0, in_progress=3, answered={9: 2})).failed == 0
    assert ledger.enter(Report(issued=0, ok=3, errors=0, in_progress=0, answered={9: 3})).failed == 0


def test_without_timed_answers_nothing_is_said_of_unanswered_ones(ledger):
    assert ledger.enter(Report(issued=5, ok=0, errors=0, in_progress=0)).failed == 0


counts = st.integers(0, 50)
reports = st.builds(
    lambda issued, ok, errors, in_progress, answered: Report(issued, ok, errors, in_progress, {1: answered}),
    *[counts] * 5,
)


@settings(deadline=None, max_examples=50)
@given(st.lists(reports, max_size=20))
def test_no_report_makes_a_ledger_count_below_zero_or_beyond_what_was_issued(given_reports):
    ledger = Ledger()
    loads = [ledger.enter(report) for report in given_reports]
    assert all(load.unanswered >= 0 for load in loads)
    assert sum(load.unanswered for load in loads) <= sum(it.issued + it.in_progress for it in given_reports) * 2


def test_a_series_sums_up_what_began_since_a_moment():
    series = Series()
    for second in range(10):
        series.add(second, second + 1, Load(ok=1))
    assert series.since(0).ok == 10
    assert series.since(7).ok == 3
    assert series.since(7.5).ok == 2
    assert series.since(20).ok == 0


def test_a_series_of_many_proxies_and_hours_stays_small_and_forgets_the_oldest():
    series = Series(horizon=3600)
    for second in range(7200):
        for proxy in range(3):
            series.add(second + proxy / 10, second + 1 + proxy / 10, Load(ok=1))
    assert len(series._spans) <= 257
    for age in (30, 300, 3000):
        assert series.since(7200 - age).ok == pytest.approx(age * 3, rel=0.1)
    assert 3 * 3500 < series.since(0).ok < 3 * 4000
