"""Commands of stdio servers: checked before the start, shown without secrets."""

import pytest

from mesh.errors import InvalidInput
from mesh.mcp.stdio import check_command, describe_command


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (("python", "-m", "server"), "python -m server"),
        (("server", "--api-key=hunter2", "x"), "server '--api-key=***' x"),
        (("server", "--token", "hunter2", "x"), "server --token '***' x"),
        (("env", "MY_SECRET=hunter2", "server"), "env 'MY_SECRET=***' server"),
        (("server", "--auth", "--verbose"), "server --auth --verbose"),
    ],
)
def test_a_command_is_shown_without_its_secrets(command: tuple[str, ...], shown: str) -> None:
    assert describe_command(command) == shown


def test_a_long_command_is_cut() -> None:
    assert len(describe_command(("x" * 1000,))) == 200


def test_a_command_that_does_not_exist_is_named() -> None:
    with pytest.raises(InvalidInput, match="no-such-command-here"):
        check_command(("no-such-command-here",))
    with pytest.raises(InvalidInput):
        check_command(())
    check_command(("sh",))
