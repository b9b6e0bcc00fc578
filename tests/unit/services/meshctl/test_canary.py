"""The words of `meshctl canary`."""

from datetime import timedelta

import click
import pytest
from click.testing import CliRunner
from google.protobuf.duration_pb2 import Duration

from agentmesh.rollout.v1 import canary_pb2
from services.meshctl import canary as module
from services.meshctl.main import cli


def duration(seconds):
    made = Duration()
    made.FromTimedelta(timedelta(seconds=seconds))
    return made


def a_canary(**changes):
    plan = canary_pb2.CanaryPlan(
        service="echo",
        stable="v1",
        candidate="v2",
        steps=[10, 100],
        interval=duration(30),
        max_error_percent=1.0,
        min_requests=50,
        max_p99=duration(0.2),
    )
    load = canary_pb2.CanaryLoad(requests=200, failed=3, p99=duration(0.045))
    step = canary_pb2.CanaryStep(percent=10, revision=7, candidate=load)
    given = {"plan": plan, "phase": canary_pb2.CANARY_PHASE_RUNNING, "steps": [step], "waiting_for": "12 s of 30 s"}
    return canary_pb2.Canary(**(given | changes))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--steps", "5,x"),
        ("--steps", ""),
        ("--interval", "fast"),
        ("--interval", "0"),
        ("--max-errors", "101%"),
        ("--max-errors", "nan"),
        ("--max-p99", "-5ms"),
        ("--max-p99-ratio", "0"),
        ("--min-requests", "0"),
    ],
)
def test_a_wrong_option_is_a_matter_of_usage(arguments):
    done = CliRunner().invoke(cli, ["canary", "start", "echo", "--from", "v1", "--to", "v2", *arguments])
    assert done.exit_code == 2
    assert arguments[0] in done.output


def test_shares_and_durations_are_read_as_people_write_them():
    context = click.Context(click.Command("x"))
    assert module._PercentType().convert("0.5%", None, context) == 0.5
    assert module._StepsType().convert("5, 25%,100", None, context) == (5, 25, 100)
    assert module._DurationType().convert("1m30s", None, context) == timedelta(seconds=90)


def test_a_line_tells_share_figures_and_what_is_waited_for():
    line = module._line(a_canary())
    assert line.startswith(" 10 %  v2: 200 requests, 3 (1.5 %) failed, p99 45ms")
    assert line.endswith("waits for 12 s of 30 s")


def test_the_last_line_tells_why_and_where_requests_go():
    back = canary_pb2.CanaryStep(percent=0, revision=8)
    ended = a_canary(phase=canary_pb2.CANARY_PHASE_ABORTED, cause="too slow", steps=[back])
    assert module._line(ended) == "aborted: too slow; 0 % to v2 (revision 8)"


def test_a_percentile_without_an_answer_is_no_number():
    load = canary_pb2.CanaryLoad(requests=5, failed=5, p99=duration(365 * 86400))
    assert module._p99(load) == "no answer"


def test_a_table_shows_plan_and_steps(capsys):
    module._show(a_canary(author="operator ann"), "table")
    said = capsys.readouterr().out
    assert "echo: v1 -> v2, running, by operator ann" in said
    assert "at most 1 % errors, p99 at most 200ms" in said
    assert "3 (1.5 %)" in said
    assert "waits for 12 s of 30 s" in said


@pytest.mark.parametrize("word", ["zone", "=a", "bad key=1"])
def test_metadata_is_name_and_value(word):
    done = CliRunner().invoke(cli, ["run", "service", "echo", "--metadata", word, "--", "true"])
    assert done.exit_code == 2
    assert "NAME=VALUE" in done.output


def test_metadata_is_given_once():
    done = CliRunner().invoke(cli, ["run", "service", "echo", "--metadata", "a=1", "--metadata", "a=2", "--", "true"])
    assert done.exit_code == 2
    assert "given twice" in done.output
