"""The bridge's command line and environment."""

import pytest

from mesh.errors import InvalidInput
from services.mcp_bridge.settings import BridgeSettings

ENVIRONMENT = {"MESH_SERVICE": "fixture", "MESH_LISTEN": "unix:/tmp/x.sock"}


def test_everything_after_the_dashes_is_the_command() -> None:
    settings = BridgeSettings.parse(["--max-links", "3", "--", "server", "--url", "x", "--", "y"], ENVIRONMENT)
    assert settings.command == ("server", "--url", "x", "--", "y")
    assert settings.max_links == 3
    assert (settings.service, settings.listen, settings.url) == ("fixture", "unix:/tmp/x.sock", "")


def test_headers_come_from_the_environment_and_are_not_shown() -> None:
    environment = {**ENVIRONMENT, "MESH_MCP_HEADERS": "Authorization: Bearer a:b\n\nX-Team: blue\n"}
    settings = BridgeSettings.parse(["--url", "http://127.0.0.1:1/mcp"], environment)
    assert dict(settings.headers) == {"Authorization": "Bearer a:b", "X-Team": "blue"}
    assert "Bearer" not in repr(settings)


def test_a_line_that_is_no_header_is_refused_without_showing_it() -> None:
    with pytest.raises(InvalidInput) as bad:
        BridgeSettings.parse(["--", "x"], {**ENVIRONMENT, "MESH_MCP_HEADERS": "hunter2"})
    assert bad.value.field == "MESH_MCP_HEADERS"
    assert "hunter2" not in str(bad.value)


@pytest.mark.parametrize(
    "arguments", [[], ["--"], ["--url", "u", "--", "x"], ["x"], ["--start-timeout", "0", "--", "x"]]
)
def test_arguments_that_make_no_sense_exit_with_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        BridgeSettings.parse(arguments, ENVIRONMENT)
    assert left.value.code == 2


@pytest.mark.parametrize("name", ["MESH_SERVICE", "MESH_LISTEN"])
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(InvalidInput) as bad:
        BridgeSettings.parse(["--", "x"], {**ENVIRONMENT, name: ""})
    assert bad.value.field == name
