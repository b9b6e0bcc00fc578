"""What a plan may ask for."""

import math

import pytest

from mesh.errors import InvalidInput
from services.control_plane.canary.plan import Plan


def test_a_plan_has_sound_defaults():
    plan = Plan("echo", "v1", "v2")
    plan.check()
    assert plan.split(5) == {"echo/v1": 95, "echo/v2": 5}
    assert (plan.stable_cluster, plan.candidate_cluster) == ("v1.echo", "v2.echo")


def test_blue_green_is_one_step():
    Plan("echo", "blue", "green", steps=(100,)).check()


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("plan.service", {"service": "Echo"}),
        ("plan.candidate", {"candidate": "v1"}),
        ("plan.steps", {"steps": ()}),
        ("plan.steps", {"steps": (5, 50)}),
        ("plan.steps", {"steps": (50, 5, 100)}),
        ("plan.steps", {"steps": (5, 5, 100)}),
        ("plan.steps", {"steps": (0, 100)}),
        ("plan.steps", {"steps": (-5, 100)}),
        ("plan.steps", {"steps": (50, 100, 150)}),
        ("plan.interval", {"interval": 0.1}),
        ("plan.interval", {"interval": 1e9}),
        ("plan.max_error_percent", {"max_error_percent": 101.0}),
        ("plan.max_error_percent", {"max_error_percent": math.nan}),
        ("plan.min_requests", {"min_requests": 0}),
        ("plan.max_p99", {"max_p99": 0.0}),
        ("plan.max_p99_ratio", {"max_p99_ratio": 0.5}),
        ("plan.max_p99_ratio", {"max_p99_ratio": math.inf}),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_its_field(field, changes):
    plan = Plan(**({"service": "echo", "stable": "v1", "candidate": "v2"} | changes))
    with pytest.raises(InvalidInput) as caught:
        plan.check()
    assert caught.value.field == field
    assert caught.value.fix
