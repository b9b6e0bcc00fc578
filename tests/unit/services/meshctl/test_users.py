import click
import pytest

from mesh.errors import AlreadyExists, InvalidInput, NotFound
from services.meshctl.users import users

PASSWORD = "correct horse battery"


def create(mesh_here, *more: str):
    return mesh_here.json("users", "create", "ada", "--password-file", "-", *more, input=f"{PASSWORD}\r\nmore\n")


def test_a_user_is_made_with_the_first_line_as_password_which_is_shown_nowhere(mesh_here) -> None:
    made = create(mesh_here, "--role", "caller")
    assert (made["name"], made["roles"]) == ("ada", ["caller"])
    assert PASSWORD not in str(made)
    assert mesh_here.meshctl("login", "--user", "ada", "--password-file", "-", input=PASSWORD).exit_code == 0


def test_a_password_at_the_terminal_is_asked_for_twice(mesh_here) -> None:
    wrong = mesh_here.meshctl("users", "create", "ada", input=f"{PASSWORD}\nanother password\n")
    assert (wrong.exit_code, mesh_here.json("users", "list")) == (1, [])
    assert mesh_here.meshctl("users", "create", "ada", input=f"{PASSWORD}\n{PASSWORD}\n").exit_code == 0


def test_no_command_takes_a_password_as_an_argument() -> None:
    names = {
        name
        for command in users.commands.values()
        for parameter in command.params
        for name in (*parameter.opts, *(["METAVAR"] if isinstance(parameter, click.Argument) else []))
        if "password" in name
    }
    assert names == {"--password-file"}


def test_a_user_is_changed_and_deleted(mesh_here) -> None:
    create(mesh_here)
    assert mesh_here.json("users", "set-roles", "ada", "--role", "b", "--role", "a")["roles"] == ["a", "b"]
    assert mesh_here.json("users", "disable", "ada")["disabled"] is True
    assert mesh_here.meshctl("login", "--user", "ada", "--password-file", "-", input=PASSWORD).exit_code == 1
    assert "disabled" not in mesh_here.json("users", "enable", "ada")
    mesh_here.json("users", "set-password", "ada", "--password-file", "-", input="another password")
    assert mesh_here.meshctl("login", "--user", "ada", "--password-file", "-", input=PASSWORD).exit_code == 1
    assert mesh_here.meshctl("users", "delete", "ada").exit_code == 0
    assert mesh_here.json("users", "list") == []


@pytest.mark.parametrize(
    ("words", "password", "error"),
    [
        (["create", "ada"], PASSWORD, AlreadyExists),
        (["create", "Ada"], PASSWORD, InvalidInput),
        (["create", "eve"], "short", InvalidInput),
        (["create", "eve"], "", InvalidInput),
        (["set-password", "eve"], PASSWORD, NotFound),
    ],
)
def test_what_cannot_be_done_is_said(mesh_here, words, password, error) -> None:
    create(mesh_here)
    done = mesh_here.meshctl("users", *words, "--password-file", "-", input=password)
    assert isinstance(done.exception, error)


def test_a_password_that_is_no_text_is_refused(mesh_here, tmp_path) -> None:
    (tmp_path / "password").write_bytes(b"\xff" * 20)
    done = mesh_here.meshctl("users", "create", "ada", "--password-file", str(tmp_path / "password"))
    assert (done.exit_code, "UTF-8" in done.output) == (2, True)
