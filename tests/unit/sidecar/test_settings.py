from pathlib import Path
from typing import Any

import pytest

from mesh.errors import InvalidInput
from mesh.model import Address


def test_what_can_work_is_not_refused(settings: Any, short_dir: Path) -> None:
    settings().check()
    settings(command=None).check()
    settings(command=None, app_listen="unix:/tmp/a.sock").check()
    script = short_dir / "run.sh"
    script.write_text("#!/bin/sh\n")
    settings(command=(str(script),)).check()


def test_a_command_is_looked_for_in_the_path_that_it_is_started_with(settings: Any, short_dir: Path) -> None:
    script = short_dir / "only-there"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    settings(command=("only-there",), env={"PATH": str(short_dir)}).check()
    with pytest.raises(InvalidInput) as caught:
        settings(command=("only-there",)).check()
    assert caught.value.reason == "COMMAND_NOT_FOUND"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"service": "No Name"}, "service"),
        ({"command": ()}, "command"),
        ({"command": ("",)}, "command"),
        ({"command": ("no-such-program",)}, "command"),
        ({"command": ("./no/such/program",)}, "command"),
        ({"app_listen": "127.0.0.1:50051"}, "listen"),
        ({"app_listen": "unix:relative.sock"}, "listen"),
        ({"app_listen": "/tmp/a.sock"}, "listen"),
        ({"command": None, "edge": Address("127.0.0.1", 0)}, "edge"),
    ],
)
def test_what_cannot_work_is_refused_with_the_field_at_fault(
    settings: Any, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        settings(**changes).check()
    assert caught.value.field == field
    assert caught.value.fix
