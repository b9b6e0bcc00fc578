import pytest


def test_a_key_stands_alone_on_standard_output_and_what_it_is_beside(mesh_here) -> None:
    done = mesh_here.meshctl("keys", "create", "--label", "CI", "--role", "caller", "--expires", "30d")
    identifier = done.stdout[: len("am_0123456789ab")]
    assert (done.exit_code, done.stdout.count("\n")) == (0, 1)
    said = mesh_here.said(done)
    assert identifier in said
    assert done.stdout.strip() not in done.stderr
    assert "good until" in said


def test_with_quiet_there_is_nothing_but_the_key(mesh_here) -> None:
    done = mesh_here.meshctl("keys", "create", "--quiet")
    assert (done.exit_code, mesh_here.said(done)) == (0, "")
    assert done.stdout.startswith("am_")


def test_the_secret_is_in_json_once_and_in_no_list(mesh_here) -> None:
    made = mesh_here.json("keys", "create", "--label", "CI", "--role", "b", "--role", "a")
    assert made["secret"].startswith(f"{made['id']}_")
    assert (made["label"], made["roles"]) == ("CI", ["a", "b"])
    secret = made["secret"].removeprefix(f"{made['id']}_")
    assert [key["id"] for key in mesh_here.json("keys", "list")] == [made["id"]]
    assert secret not in mesh_here.meshctl("keys", "list", "--output", "json").output
    assert secret not in mesh_here.meshctl("keys", "list").output


def test_a_rotated_key_takes_the_place_of_another_after_the_grace(mesh_here) -> None:
    old = mesh_here.json("keys", "create", "--label", "CI", "--role", "caller", "--expires", "30d")
    new = mesh_here.json("keys", "rotate", old["id"], "--grace", "1h")
    assert (new["rotated_from"], new["label"], new["roles"]) == (old["id"], "CI", ["caller"])
    kept = {key["id"]: key for key in mesh_here.json("keys", "list")}
    assert kept[old["id"]]["expire_time"] < old["expire_time"]


def test_a_revoked_key_says_so(mesh_here) -> None:
    made = mesh_here.json("keys", "create")
    assert "revoke_time" in mesh_here.json("keys", "revoke", made["id"])
    assert "revoked" in mesh_here.meshctl("keys", "list").stdout


@pytest.mark.parametrize("words", ["0d", "-1d", "nand", "infd", "1e9d", "d", "30", "soon"])
def test_a_lifetime_that_is_none_is_refused_before_anything_is_made(mesh_here, words) -> None:
    assert mesh_here.meshctl("keys", "create", "--expires", words).exit_code != 0
    assert mesh_here.json("keys", "list") == []


def test_the_keys_that_sign_tokens_are_listed_and_replaced(mesh_here) -> None:
    (first,) = mesh_here.json("token-keys", "list")
    made = mesh_here.json("token-keys", "rotate")
    assert {key["id"]: key.get("signs", False) for key in mesh_here.json("token-keys", "list")} == {
        first["id"]: True,
        made["id"]: False,
    }
