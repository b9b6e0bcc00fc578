import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mesh.access.audit_files import audit_files
from mesh.access.audit_writer import AuditWriter
from mesh.config.document.access import Audit
from services.meshctl import audit as audit_module
from services.meshctl.main import cli

Meshctl = Callable[..., Result]


@pytest.fixture
def meshctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Meshctl:
    # The command line sets it for its children.
    monkeypatch.setenv("MESH_STATE_DIR", str(tmp_path))
    return lambda *words: CliRunner().invoke(cli, ["--state-dir", str(tmp_path), "audit", *words])


def write(folder: Path, *entries: dict[str, Any]) -> None:
    writer = AuditWriter(folder, Audit)
    writer.start()
    writer.append(entries)
    writer.sync()
    writer.close()


def entry(time: float, **more: Any) -> dict[str, Any]:
    facts = {"who": "user:ada", "decision": "allowed", "service": "financial", "method": "pkg.Service/Get"}
    return {"time": time, **facts, **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The audit of the first of two gateways."""
    write(tmp_path / "audit" / "gateway-1", entry(1), entry(3, decision="refused", who="user:bob"), entry(5))
    write(tmp_path / "audit" / "gateway-2", entry(2), entry(4, who="key:bobby"))
    return tmp_path / "audit" / "gateway-1"


def times(done: Result) -> list[float]:
    assert done.exit_code == 0, done.output
    return [found["time"] for found in json.loads(done.stdout)]


def test_entries_of_all_gateways_are_shown_in_order(meshctl: Meshctl, folder: Path) -> None:
    assert times(meshctl("show", "--output", "json")) == [1, 2, 3, 4, 5]
    assert times(meshctl("show", "--output", "json", "--last", "2")) == [4, 5]
    assert times(meshctl("show", "--output", "json", "--dir", str(folder))) == [1, 3, 5]


def test_only_what_was_asked_for_is_shown(meshctl: Meshctl, folder: Path) -> None:
    assert times(meshctl("show", "--output", "json", "--who", "bob")) == [3, 4]
    assert times(meshctl("show", "--output", "json", "--decision", "refused")) == [3]
    assert "no such entries" in meshctl("show", "--who", "nobody").stdout


def test_what_callers_have_sent_cannot_steer_a_terminal(meshctl: Meshctl, folder: Path) -> None:
    write(folder, entry(6, tool="\x1b[2J\u202eevil\n", client="10.0.0.1"))
    shown = meshctl("show", "--last", "1").stdout
    assert "\\x1b[2J\\x202eevil\\x0a" in shown
    assert "\x1b" not in shown
    assert "financial/pkg.Service/Get" in shown


def test_what_comes_is_followed_over_all_gateways(
    meshctl: Meshctl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = 0

    def more_comes(_: float) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 3:
            raise KeyboardInterrupt
        write(folder.parent / f"gateway-{pauses}", entry(5 + pauses))

    monkeypatch.setattr(audit_module.time, "sleep", more_comes)
    done = meshctl("show", "--follow", "--last", "1", "--output", "json")
    assert [json.loads(line)["time"] for line in done.stdout.splitlines() if line.startswith("{")] == [5, 6, 7]


def test_a_good_audit_is_told_with_its_head_which_can_be_asked_for_later(meshctl: Meshctl, folder: Path) -> None:
    done = meshctl("verify")
    assert (done.exit_code, done.stdout.count("are good")) == (0, 2)
    (found,) = json.loads(meshctl("verify", "--dir", str(folder), "--output", "json").stdout)
    assert (found["good"], found["lines"], found["last"]) == (True, 3, 3)
    head = f"3:{found['hash']}"
    assert head in done.stdout
    write(folder, entry(6))
    assert meshctl("verify", "--dir", str(folder), "--head", head).exit_code == 0
    anew = meshctl("verify", "--dir", str(folder), "--head", f"3:{'0' * 64}")
    assert (anew.exit_code, "made anew" in anew.stdout) == (1, True)


def test_a_broken_audit_is_told_with_its_place(meshctl: Meshctl, folder: Path) -> None:
    (file,) = audit_files(folder)
    file.write_bytes(file.read_bytes().replace(b"bob", b"eve"))
    done = meshctl("verify")
    assert done.exit_code == 1
    assert "gateway-1: BROKEN at audit-00000001.jsonl:2" in done.stdout
    assert "gateway-2: 2 lines in 1 files are good" in done.stdout
    assert [each["good"] for each in json.loads(meshctl("verify", "--output", "json").stdout)] == [False, True]


@pytest.mark.parametrize("head", ["", "3", "x:y", "3:abc", f"-1:{'0' * 64}", f"3:{'g' * 64}"])
def test_what_is_no_head_is_refused(meshctl: Meshctl, folder: Path, head: str) -> None:
    assert meshctl("verify", "--dir", str(folder), "--head", head).exit_code == 2


def test_a_head_without_a_folder_is_refused(meshctl: Meshctl, folder: Path) -> None:
    assert meshctl("verify", "--head", f"3:{'0' * 64}").exit_code == 2


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_mesh_without_an_audit_is_told(meshctl: Meshctl, command: str) -> None:
    done = meshctl(command)
    assert done.exit_code not in (0, 2)
    assert "There is no audit" in str(done.exception)
