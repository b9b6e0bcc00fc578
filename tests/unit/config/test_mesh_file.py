import sys
from typing import get_args

import pytest

from mesh.config import load_mesh_file, mesh_file
from mesh.errors import InvalidInput
from mesh.model import KINDS, Declaration

EXAMPLE = """\
services:
  financial: {kind: mcp, command: [python, -m, services.financial], instances: 2}
  remote: {kind: mcp, url: "https://example.test/mcp"}
  greeter:
    kind: service
    command: [./greeter, --port, "1"]
    listen: unix:/tmp/greeter.sock
    env: {LEVEL: debug}
    description: says hello
  von-neumann: {kind: agent, command: [python, -m, services.von_neumann], upstreams: [remote, financial]}
"""


@pytest.fixture
def load(tmp_path):
    def read(text, **options):
        path = tmp_path / "mesh.yaml"
        path.write_text(text)
        return load_mesh_file(path, **options)

    return read


@pytest.fixture
def fault(load):
    """The one fault of a text."""

    def find(text, **options):
        with pytest.raises(InvalidInput) as caught:
            load(text, **options)
        return caught.value

    return find


def test_a_mesh_file_gives_its_services_in_order(load):
    services = load(EXAMPLE).services
    assert list(services) == ["financial", "remote", "greeter", "von-neumann"]
    assert services["financial"].instances == 2
    assert services["remote"].url == "https://example.test/mcp"
    assert services["greeter"].listen == "unix:/tmp/greeter.sock"
    assert services["greeter"].env == {"LEVEL": "debug"}
    assert services["von-neumann"].declaration == Declaration("von-neumann", "agent", ("financial", "remote"))


def test_a_first_word_python_is_the_interpreter_that_runs_this(load):
    services = load("services: {a: {kind: agent, command: [python, -c, python]}, b: {kind: mcp, command: [python3]}}")
    assert services.services["a"].command == (sys.executable, "-c", "python")
    assert services.services["b"].command == ("python3",)


def test_the_kinds_of_a_file_are_those_of_the_model():
    assert get_args(mesh_file.Kind) == KINDS


@pytest.mark.parametrize(
    ("entry", "line", "field", "reason"),
    [
        ("  a: {kind: robot, command: [x]}", 2, "services.a.kind", "use one of agent, gateway, mcp, service"),
        ("  a: {command: [x]}", 2, "services.a.kind", "missing"),
        ("  a:\n    kind: mcp\n    comand: [x]", 4, "services.a.comand", "did you mean command"),
        ("  a:\n    kind: mcp\n    command: x --y", 4, "services.a.command", "must be a list"),
        ("  a:\n    kind: mcp\n    command: [x, 80]", 4, "services.a.command[1]", "put it in quotes"),
        ("  a:\n    kind: mcp\n    command: [x]\n    env: {PORT: 80}", 5, "services.a.env.PORT", "put it in quotes"),
        ("  a: {kind: mcp, command: [x], instances: -1}", 2, "services.a.instances", "greater than or equal to 0"),
        ("  a: {kind: mcp, command: [x], instances: yes}", 2, "services.a.instances", "whole number"),
        ("  a: {kind: mcp}", 2, "services.a", 'either "command" or "url"'),
        ("  a: {kind: mcp, command: [x], url: 'http://h'}", 2, "services.a", 'either "command" or "url"'),
        ("  a: {kind: service, url: 'http://h'}", 2, "services.a.url", 'only a service of kind "mcp"'),
        ("  a: {kind: mcp, url: 'ftp://h'}", 2, "services.a.url", "not a URL"),
        ("  a: {kind: mcp, url: 'http://h:99999'}", 2, "services.a.url", "not a URL"),
        ("  a: {kind: mcp, command: ['']}", 2, "services.a.command", "first word is the program"),
        ("  a: {kind: agent, command: [x], listen: 'unix:/s'}", 2, "services.a.listen", 'kind "service"'),
        ("  a: {kind: service, command: [x], listen: '127.0.0.1:1'}", 2, "services.a.listen", "unix:/PATH"),
        (
            "  a: {kind: service, command: [x], listen: 'unix:/s', instances: 2}",
            2,
            "services.a.instances",
            "cannot share",
        ),
        ("  A_b: {kind: mcp, command: [x]}", 2, "services.A_b", "not a service name"),
        ("  a: {kind: mcp, command: [x], env: {'A=B': c}}", 2, 'services.a.env["A=B"]', "environment variable"),
        ("  a: [1]", 2, "services.a", "mapping"),
    ],
)
def test_a_fault_has_file_line_field_and_reason(fault, entry, line, field, reason):
    error = fault(f"services:\n{entry}\n")
    assert error.field == field
    assert f"mesh.yaml, line {line}: " in error.summary
    assert reason in error.summary


def test_an_unknown_upstream_names_the_nearest_services(fault):
    error = fault(EXAMPLE + "  other: {kind: agent, command: [x], upstreams: [finacial]}\n")
    assert error.field == "services.other.upstreams[0]"
    assert "did you mean financial?" in error.summary


def test_a_star_and_known_services_may_be_upstreams(load):
    text = "services: {a: {kind: agent, command: [x], upstreams: ['*', gateway]}}"
    assert load(text, known=("gateway",)).services["a"].upstreams == ("*", "gateway")


def test_all_faults_are_told_at_once(fault):
    error = fault("services:\n  a: {kind: robot, command: [x]}\n  b: {kind: mcp, command: [x], extra: 1}\n")
    assert "line 2: services.a.kind" in error.summary
    assert "line 3: services.b.extra" in error.summary


def test_a_key_that_stands_there_twice_is_refused(fault):
    error = fault("services:\n  a: {kind: mcp, command: [x]}\n  a: {kind: mcp, command: [y]}\n")
    assert "line 3" in error.summary
    assert "twice" in error.summary


@pytest.mark.parametrize("text", ["", "services", "- a", "services: 1", "service: {}", "services: {a: null}"])
def test_other_documents_are_refused(fault, text):
    assert "mesh.yaml" in fault(text).summary


@pytest.mark.parametrize(
    "text",
    [
        "services: {",
        "services:\n\t- a",
        "a: !!python/object/apply:os.system [id]",
        "&a [*a]",
        "services: &a {b: *a}",
        "services: {a: {kind: 2026-13-45}}",
        "[" * 5000,
        "\x00",
        "a: *nobody",
    ],
)
def test_what_is_no_plain_yaml_is_refused_and_nothing_of_it_runs(fault, text):
    assert "mesh.yaml" in fault(text).summary


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"nowhere\.yaml cannot be read"):
        load_mesh_file(tmp_path / "nowhere.yaml")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "mesh.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="UTF-8"):
        load_mesh_file(tmp_path / "mesh.yaml")


def test_version_and_metadata_are_read(load):
    text = (
        "services: {a: {kind: agent, command: [x], version: '2', metadata: {zone: a}}, b: {kind: agent, command: [x]}}"
    )
    services = load(text).services
    assert (services["a"].version, dict(services["a"].metadata)) == ("2", {"zone": "a"})
    assert (services["b"].version, dict(services["b"].metadata)) == ("", {})


def test_a_version_that_looks_like_a_number_must_be_quoted(fault):
    err = fault("services: {a: {kind: agent, command: [x], version: 2}}")
    assert err.field == "services.a.version"


def test_a_key_of_metadata_must_fit_every_registry(fault):
    err = fault("services: {a: {kind: agent, command: [x], metadata: {'a b': c}}}")
    assert err.field == 'services.a.metadata["a b"]'
