"""What operators see of a change, its end, and the way back."""

import asyncio
import json

import pytest
from click.testing import CliRunner

from services.meshctl import main
from services.meshctl.failures import exit_status_of, mesh_errors_of

GOOD = "services:\n  echo:\n    timeout: 7.5s\n"
REFUSED = "services:\n  echo:\n    routes:\n      - name: long\n        match: {path: {regex: '/[a-z]{200}'}}\n"


class Answer:
    """What a command printed, and its exit status as the entry point makes it."""

    def __init__(self, result):
        self.status = result.exit_code
        self.out = result.stdout
        self.err = result.stderr
        error = result.exception
        if error is not None and not isinstance(error, SystemExit):
            errors = mesh_errors_of(error)
            assert errors is not None, result.exception
            self.status = exit_status_of(errors)
            self.err += "\n".join(map(str, errors))


@pytest.fixture
def meshctl(plane, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MESH_CONFIG_DIR", str(plane.layers))

    async def run(*words, **files):
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        command = ["--state-dir", str(plane.settings.state_dir), *words]
        return Answer(await asyncio.to_thread(CliRunner().invoke, main.cli, command))

    return run


async def test_apply_shows_what_changes_and_how_it_went(meshctl):
    answer = await meshctl("apply", "good.yaml", "-m", "faster", "--yes", good=GOOD)
    assert answer.status == 0
    assert "services.echo.timeout" in answer.out
    assert "Revision 2 is in force: 2 proxies have accepted it." in answer.out
    again = await meshctl("apply", "good.yaml", "--yes")
    assert "Nothing has changed: revision 2 says the same." in again.out
    history = await meshctl("history", "--output", "json")
    newest, _ = json.loads(history.out)
    assert (newest["number"], newest["status"], newest["message"]) == (2, "active", "faster")


async def test_apply_tells_all_faults_with_their_places_and_exits_with_2(meshctl, plane):
    bad = "services:\n  echo:\n    timeout: fast\n  eco:\n    retry: {attemps: 1}\n"
    answer = await meshctl("apply", "bad.yaml", "--yes", bad=bad)
    assert answer.status == 2
    assert "bad.yaml, line 3: services.echo.timeout" in answer.err
    assert "bad.yaml, line 5" in answer.err
    assert "did you mean attempts?" in answer.err
    answer = await meshctl("diff", "bad.yaml", "--output", "json")
    assert (answer.status, [fault["line"] for fault in json.loads(answer.out)["faults"]]) == (2, [3, 5])
    assert len(await plane.history()) == 1


async def test_apply_of_what_envoys_refuse_names_proxy_words_and_line_and_exits_with_1(meshctl):
    answer = await meshctl("apply", "refused.yaml", "--yes", refused=REFUSED)
    assert answer.status == 1
    assert "/[a-z]{200}" in answer.out
    assert "Revision 2 was undone" in answer.err
    assert "caller/caller-1 refuses the route outbound:" in answer.err
    assert "RE2 program size" in answer.err
    assert "caused by refused.yaml, line 5: services.echo.routes.long.match.path.regex" in answer.err
    assert "rolled back" in (await meshctl("history")).out
    proxies = json.loads((await meshctl("proxies", "--output", "json")).out)
    assert "RE2 program size" in str(proxies)


async def test_rollback_goes_back_and_says_what_is_in_force(meshctl):
    await meshctl("apply", "good.yaml", "--yes", good=GOOD)
    answer = await meshctl("rollback", "--message", "slow")
    assert (answer.status, answer.out) == (0, "Revision 3 is in force: 2 proxies have accepted it.\n")
    assert "7500ms" not in (await meshctl("config", "get")).out
    missing = await meshctl("rollback", "99")
    assert (missing.status, "meshctl history" in missing.err) == (1, True)


async def test_an_expectation_that_does_not_hold_changes_nothing(meshctl, plane):
    answer = await meshctl("apply", "good.yaml", "--yes", "--expect", "7", good=GOOD)
    assert (answer.status, "The newest revision is 1, not 7." in answer.err) == (1, True)
    assert len(await plane.history()) == 1


async def test_a_dry_run_and_an_apply_without_a_person_change_nothing(meshctl, plane):
    dry = await meshctl("apply", "good.yaml", "--dry-run", good=GOOD)
    assert (dry.status, "services.echo.timeout" in dry.out) == (0, True)
    unasked = await meshctl("apply", "good.yaml")
    assert (unasked.status, "--yes" in unasked.err) == (2, True)
    assert len(await plane.history()) == 1


async def test_diff_tells_the_resources_of_each_proxy(meshctl):
    answer = await meshctl("diff", "good.yaml", "--resources", good=GOOD)
    assert "caller/caller-1  route outbound" in answer.out
    assert '+       "max_stream_duration": "7.500s"' in answer.out


async def test_the_document_of_the_running_mesh_tells_its_origins_and_what_is_left_out(meshctl, plane, eventually):
    await meshctl("apply", "good.yaml", "--yes", good=GOOD)
    origins = json.loads((await meshctl("config", "get", "--origin", "--output", "json")).out)["origins"]
    (found,) = (origin for origin in origins if origin["field"] == "services.echo.timeout")
    assert (found["layer"], found["source"], found["line"]) == ("operator", "good.yaml", 3)
    (plane.layers / "dev.yaml").write_text("services: {echo: {idle_timeout: soon}}\n")

    async def is_told():
        return bool(plane.document.sources.refused)

    await eventually(is_told)
    answer = await meshctl("config", "get")
    assert "dev.yaml is not in force" in answer.err
    assert (await meshctl("config", "get", "--layer", "operator")).out == GOOD


async def test_a_proxy_s_own_configuration_and_a_call_are_told(meshctl):
    listed = json.loads((await meshctl("proxies", "caller/caller-1", "--config", "cluster", "--output", "json")).out)
    assert {"echo", "other"} <= {each["name"] for each in listed}
    table = await meshctl("proxies", "caller/caller-1")
    assert "LAG" in table.out
    assert "caller/caller-2" not in table.out
    answer = await meshctl("explain", "caller", "echo", "/a.B/C", "--header", "x-a=1", "--output", "json")
    assert json.loads(answer.out)["route"] == "default route"
    wrong = await meshctl("explain", "caller", "echo", "/a.B/C", "--header", "x-a")
    assert wrong.status == 2


async def test_no_mesh_is_unreachable(meshctl, tmp_path):
    answer = Answer(await asyncio.to_thread(CliRunner().invoke, main.cli, ["--state-dir", str(tmp_path), "history"]))
    assert answer.status == 3


ACCESS = """\
access:
  roles:
    tools: {allow: [{services: [echo]}], deny: [{tools: [delete]}]}
  issuers:
    corp: {issuer: https://corp.example, audiences: [mesh], jwks: '{"keys": []}'}
  bindings:
    ml: {issuer: corp, claims: {groups: ml}, roles: [tools]}
"""


async def test_can_i_decides_by_the_document_in_force(meshctl):
    assert (await meshctl("can-i", "token:corp/ada", "echo", "CallTool", "--claim", "groups=ml")).status == 1
    assert (await meshctl("apply", "access.yaml", "--yes", access=ACCESS)).status == 0
    who = ("can-i", "token:corp/ada", "echo", "CallTool", "--claim", "groups=ml")
    yes = await meshctl(*who, "--tool", "json")
    assert (yes.status, yes.out.startswith("yes: ")) == (0, True)
    assert "(tools.allow[0])" in yes.out
    no = await meshctl(*who, "--tool", "delete", "--output", "json")
    assert no.status == 1
    facts = json.loads(no.out)
    assert (facts["allowed"], facts["reason"], facts["rule"]) == (False, "DENIED_BY_RULE", "tools.deny[0]")
    every = await meshctl(*who)
    assert (every.status, "tools.deny[0]" in every.out) == (1, True)
    assert (await meshctl("can-i", "anonymous", "gateway", "/healthz")).status == 0
    nobody = await meshctl("can-i", "ada", "echo")
    assert (nobody.status, "is nobody" in nobody.err) == (2, True)
