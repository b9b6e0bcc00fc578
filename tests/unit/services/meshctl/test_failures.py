"""Exit statuses, and what an error looks like."""

import os
import sys

import click
import pytest

from mesh.errors import FailedPrecondition, InvalidInput, NotFound, Unavailable
from services.meshctl import main as entry
from services.meshctl.amount import Amount
from services.meshctl.failures import exit_status_of, mesh_errors_of
from services.meshctl.members import named


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ([NotFound("x")], 1),
        ([InvalidInput("x")], 2),
        ([InvalidInput("x"), NotFound("y")], 1),
        ([NotFound("x"), Unavailable("y")], 3),
    ],
)
def test_the_exit_status_tells_failed_from_usage_and_unreachable(errors, status) -> None:
    assert exit_status_of(errors) == status


def test_a_group_with_a_defect_is_no_error_for_people() -> None:
    group = BaseExceptionGroup("", [NotFound("x"), ExceptionGroup("", [ZeroDivisionError()])])
    assert mesh_errors_of(group) is None


def run_meshctl(monkeypatch, *words: str) -> object:
    monkeypatch.setattr(sys, "argv", ["meshctl", *words])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return ended.value.code


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MESH_CONTROL_BIND", "nonsense"),
        ("MESH_GATEWAY_BIND", "127.0.0.1:99999"),
        ("MESH_CONSUL_RPC_PORT", "x"),
        ("MESH_CERTIFICATE_LIFETIME", "1"),
        ("CONSUL_HTTP_ADDR", "ftp://x:1"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch, capsys, variable, value) -> None:
    monkeypatch.setenv(variable, value)
    assert run_meshctl(monkeypatch, "status") == 2
    assert f"error: {variable}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("call", "a", "b", "--timeout", "nan"),
        ("call", "a", "b", "--timeout", "inf"),
        ("call", "a", "b", "--timeout", "0"),
        ("token", "create", "a", "--minutes", "nan"),
        ("token", "create", "a", "--minutes", "1e300"),
        ("logs", "-n", "-1"),
        ("run", "mcp", "a"),
        ("run", "mcp", "a", "--url", "http://127.0.0.1:1/mcp", "--", "ls"),
        ("run", "service", "a", "--listen", "nowhere", "--", "ls"),
        ("run", "agent", "No-Name", "--", "ls"),
    ],
)
def test_a_mistake_on_the_command_line_is_usage(monkeypatch, capsys, tmp_path, words) -> None:
    monkeypatch.setenv("MESH_STATE_DIR", str(tmp_path))
    assert run_meshctl(monkeypatch, *words) == 2
    assert "rror" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("MESH_CONTROL_BIND", "127.0.0.1:0", "has no port"),
        ("MESH_GATEWAY_BIND", "127.0.0.1:18001", "that of MESH_ENROLMENT_BIND"),
        ("MESH_CONSUL_BIND", "127.0.0.1:8080", "that of MESH_GATEWAY_BIND"),
    ],
)
def test_ports_that_cannot_work_are_told_before_anything_starts(
    monkeypatch, capsys, tmp_path, variable, value, words
) -> None:
    for name in [name for name in os.environ if name.startswith(("MESH_", "CONSUL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MESH_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv(variable, value)
    assert run_meshctl(monkeypatch, "up") == 2
    said = capsys.readouterr().err
    assert f"error: {variable}: " in said
    assert words in said
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_token_file_without_a_token_is_named(monkeypatch, capsys, tmp_path, content) -> None:
    monkeypatch.setenv("MESH_STATE_DIR", str(tmp_path))
    (tmp_path / "token").write_bytes(content)
    assert run_meshctl(monkeypatch, "run", "agent", "a", "--token-file", str(tmp_path / "token"), "--", "ls") == 2
    assert "--token-file: " in capsys.readouterr().err


def test_an_amount_is_a_finite_number_above_zero() -> None:
    assert Amount(10.0).convert("2.5", None, None) == 2.5
    for text in ("nan", "inf", "-inf", "0", "-1", "10.1", "x"):
        with pytest.raises(click.BadParameter):
            Amount(10.0).convert(text, None, None)


def test_the_error_of_a_start_names_the_member() -> None:
    error = named(FailedPrecondition("The port is taken.", reason="TAKEN", fix="Free it."), "a-1")
    assert isinstance(error, FailedPrecondition)
    assert str(error) == "a-1 did not start: The port is taken. Free it."
    assert error.reason == "TAKEN"
    group = BaseExceptionGroup("", [NotFound("x"), NotFound("y")])
    assert str(named(group, "a-1")) == "a-1 did not start: x"


def test_a_defect_in_a_start_stays_one() -> None:
    group = BaseExceptionGroup("", [ZeroDivisionError()])
    assert named(group, "a-1") is group
