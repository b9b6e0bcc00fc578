"""Verdicts on loads."""

import pytest

from mesh.xds import Load
from services.control_plane.canary.judge import Verdict, judge, judge_baseline
from services.control_plane.canary.plan import Plan

WAIT, PASS, ABORT = Verdict.WAIT, Verdict.PASS, Verdict.ABORT


def verdict(candidate, stable=None, *, elapsed=100.0, stable_p99=None, **plan):
    made = Plan("echo", "v1", "v2", interval=30.0, **plan)
    return judge(made, elapsed=elapsed, candidate=candidate, stable=stable or Load(), stable_p99=stable_p99).verdict


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (Load(ok=100), PASS),
        (Load(ok=99, errors=1), PASS),
        (Load(ok=98, errors=2), ABORT),
        (Load(ok=98, unanswered=2), ABORT),
        (Load(ok=49), WAIT),
        # Two of ten say nothing yet about 5 percent; that three of at most fifty are more than 5 percent is certain.
        (Load(ok=8, errors=2), WAIT),
        (Load(ok=7, errors=3), ABORT),
        (Load(), WAIT),
    ],
)
def test_errors_are_judged_as_soon_as_they_are_certain(load, expected):
    bound = 1.0 if load.requests >= 50 else 5.0
    assert verdict(load, max_error_percent=bound, min_requests=50) is expected


def test_no_bound_on_errors_is_broken_by_none():
    assert verdict(Load(ok=100), max_error_percent=0.0) is PASS
    assert verdict(Load(ok=99, errors=1), max_error_percent=0.0) is ABORT


def test_a_step_passes_when_its_interval_is_over():
    assert verdict(Load(ok=100), elapsed=29.0) is WAIT
    assert verdict(Load(ok=100), elapsed=30.0) is PASS


def test_two_slow_answers_of_few_are_forgiven():
    assert verdict(Load(ok=52, latencies={5: 50, 900: 2}), max_p99=100.0) is PASS
    assert verdict(Load(ok=53, latencies={5: 50, 900: 3}), max_p99=100.0) is ABORT


def test_one_percent_of_many_may_be_slow():
    assert verdict(Load(ok=1000, latencies={5: 990, 900: 10}), max_p99=100.0) is PASS
    assert verdict(Load(ok=1000, latencies={5: 985, 900: 15}), max_p99=100.0) is ABORT


def test_a_version_that_hangs_breaks_the_bound_on_latency():
    assert verdict(Load(ok=50, unanswered=3, latencies={5: 50}), max_p99=100.0, max_error_percent=100.0) is ABORT


def test_a_ratio_is_to_the_stable_version_in_the_same_time():
    slow, stable = Load(ok=100, latencies={50: 100}), Load(ok=100, latencies={20: 100})
    assert verdict(slow, stable, max_p99_ratio=2.0) is ABORT
    assert verdict(slow, stable, max_p99_ratio=3.0) is PASS


def test_a_ratio_to_a_stable_version_with_few_requests_is_to_what_it_did_before():
    slow, few = Load(ok=100, latencies={50: 100}), Load(ok=2, latencies={500: 2})
    assert verdict(slow, few, max_p99_ratio=2.0, stable_p99=20.0) is ABORT
    assert verdict(slow, few, max_p99_ratio=2.0) is PASS


def test_among_fast_answers_a_ratio_is_noise():
    fast, faster = Load(ok=100, latencies={5: 100}), Load(ok=100, latencies={1: 100})
    assert verdict(fast, faster, max_p99_ratio=1.5) is PASS


def test_a_baseline_needs_as_many_requests_as_a_step():
    plan = Plan("echo", "v1", "v2", min_requests=50, max_p99_ratio=2.0)
    assert judge_baseline(plan, Load(ok=49, latencies={1: 49})).verdict is WAIT
    assert judge_baseline(plan, Load(ok=50, latencies={1: 50})).verdict is PASS
