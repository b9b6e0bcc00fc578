import json
import stat

import pytest
from click.testing import CliRunner

from mesh.errors import InvalidInput, NotFound
from services.meshctl.main import cli

GOOD = """\
services:
  a:
    routes:
      - name: r
        headers: {request: {set: {cookie: sid=1, x-key: {secret: 'env:A'}}}}
"""


@pytest.fixture
def meshctl(tmp_path, monkeypatch):
    monkeypatch.setenv("MESH_STATE_DIR", str(tmp_path / "state"))

    def run(*words, **options):
        return CliRunner().invoke(cli, words, **options)

    return run


@pytest.fixture
def good(tmp_path):
    (tmp_path / "good.yaml").write_text(GOOD)
    return str(tmp_path / "good.yaml")


def test_show_prints_the_layers_together_with_secrets_masked(meshctl, good):
    done = meshctl("config", "show", "--file", good, "--environment", "production")
    assert "default_intention: deny" in done.stdout
    assert "sid=1" not in done.stdout
    assert "secret: env:A" in done.stdout


def test_origins_tell_layer_and_line(meshctl, good):
    done = meshctl("config", "show", "--file", good, "--origin", "--output", "json")
    values = {each["field"]: each for each in json.loads(done.stdout)}
    assert values["services.a.routes[0].name"] == {
        "field": "services.a.routes[0].name",
        "value": "r",
        "layer": "file",
        "source": good,
        "line": 4,
    }
    assert values["mesh.default_intention"]["layer"] == "dev"
    assert values["defaults.retry.hedge"]["layer"] == "built-in"
    assert "sid=1" not in done.stdout


def test_origins_are_a_table_for_people(meshctl):
    done = meshctl("config", "show", "--origin")
    assert "FIELD" in done.stdout
    assert "defaults.yaml:" in done.stdout


def test_validate_says_that_a_document_is_valid(meshctl, good):
    done = meshctl("config", "validate", good)
    assert (done.exit_code, "is valid" in done.stdout) == (0, True)


@pytest.mark.parametrize("text", ["services: {a: {rutes: []}}", "services: {a: {fallback: [a]}}"])
def test_validate_names_the_faults_and_ends_with_2(meshctl, tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    done = meshctl("config", "validate", str(path))
    assert done.exit_code == 2
    assert f"{path}, line 1: services.a." in done.stderr
    done = meshctl("config", "validate", str(path), "--output", "json")
    assert done.exit_code == 2
    assert json.loads(done.stdout)["faults"][0]["line"] == 1


def test_an_unknown_environment_is_named(meshctl):
    assert isinstance(meshctl("config", "show", "--environment", "moon").exception, NotFound)


def test_schema_prints_the_published_one(meshctl):
    assert json.loads(meshctl("config", "schema").stdout)["title"] == "agentmesh mesh document"


def test_a_secret_comes_from_standard_input_and_is_never_shown(meshctl, tmp_path):
    done = meshctl("secrets", "set", "team/key", input="hunter2\n")
    assert (done.exit_code, done.stdout) == (0, "set team/key\n")
    assert stat.S_IMODE((tmp_path / "state" / "secrets.key").stat().st_mode) == 0o600
    listed = meshctl("secrets", "list", "--output", "json")
    assert json.loads(listed.stdout) == {"secrets": ["team/key"]}
    assert "kv:team/key" in meshctl("secrets", "list").stdout
    assert meshctl("secrets", "remove", "team/key").exit_code == 0
    assert isinstance(meshctl("secrets", "remove", "team/key").exception, NotFound)
    assert "No secrets are set." in meshctl("secrets", "list").stdout


@pytest.mark.parametrize("value", [b"", b"two\nlines\n", b"\xff"])
def test_what_cannot_be_a_secret_is_refused(meshctl, value):
    assert isinstance(meshctl("secrets", "set", "a", input=value).exception, InvalidInput)
