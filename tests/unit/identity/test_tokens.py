import base64
import json
import string
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import FailedPrecondition, InvalidInput, MeshError, PermissionDenied, Unauthenticated
from mesh.identity import JoinTokens, read_claims
from mesh.identity import tokens as tokens_module

MINUTE = timedelta(minutes=1)
CA = "ab" * 32
ONE, TWO = b"1" * 32, b"2" * 32
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

# Refusals come before a use is written down, so these need no folder.
NOWHERE = JoinTokens(b"k" * 32, Path("/nonexistent/tokens.used"), clock=lambda: NOON)
TOKEN, _ = NOWHERE.create("financial", MINUTE, fingerprint=CA)

names = st.from_regex(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True).filter(lambda name: name != "control-plane")


def reason_of(tokens: JoinTokens, token: str, *, service: str = "a", key: bytes = ONE) -> str:
    with pytest.raises(MeshError) as caught:
        tokens.redeem(token, service=service, key_digest=key)
    assert caught.value.fix
    assert len(token) < 40 or token not in str(caught.value)
    return caught.value.reason


@given(names, st.integers(1, 86_400), st.binary(min_size=32, max_size=32).map(bytes.hex))
def test_a_token_says_what_it_was_made_for(service: str, seconds: int, fingerprint: str) -> None:
    token, expires = NOWHERE.create(service, timedelta(seconds=seconds), fingerprint=fingerprint)
    claims = read_claims(f" {token}\n")
    assert (claims.service, claims.expires, claims.ca) == (service, expires, fingerprint)
    assert expires == NOON + timedelta(seconds=seconds)


@given(st.integers(0, len(TOKEN) - 1), st.characters())
def test_a_token_with_any_changed_character_is_refused(position: int, character: str) -> None:
    changed = TOKEN[:position] + character + TOKEN[position + 1 :]
    if changed != TOKEN:
        assert reason_of(NOWHERE, changed, service="financial") in ("TOKEN_FOREIGN", "TOKEN_MALFORMED")


def test_no_character_can_be_exchanged_for_one_of_the_same_meaning() -> None:
    for position, found in enumerate(TOKEN):
        for character in set(string.ascii_letters + string.digits + "+/-_=. ") - {found}:
            changed = TOKEN[:position] + character + TOKEN[position + 1 :]
            assert reason_of(NOWHERE, changed, service="financial") in ("TOKEN_FOREIGN", "TOKEN_MALFORMED")


@given(st.integers(0, len(TOKEN) - 1))
def test_a_token_that_was_cut_is_refused(length: int) -> None:
    reason = reason_of(NOWHERE, TOKEN[:length], service="financial")
    assert reason in ("TOKEN_MISSING", "TOKEN_FOREIGN", "TOKEN_MALFORMED")


@given(st.text())
def test_a_text_that_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        read_claims(text)
    assert reason_of(NOWHERE, text) in ("TOKEN_MISSING", "TOKEN_MALFORMED")


@pytest.mark.parametrize(
    "claims",
    [
        [],
        None,
        {},
        {"id": "1", "service": "a", "expires": 1e400, "ca": CA},
        {"id": "1", "service": "a", "expires": 10**30, "ca": CA},
        {"id": "1", "service": "a", "expires": "x", "ca": CA},
        {"id": "1", "service": ["a"], "expires": 1, "ca": CA},
        {"id": "1", "service": "../a", "expires": 1, "ca": CA},
        {"id": 1, "service": "a", "expires": 1, "ca": CA},
        {"id": "1", "service": "a", "expires": 1, "ca": "AB"},
        {"id": "1", "service": "a", "expires": 1, "ca": None},
    ],
)
def test_claims_of_another_form_are_refused(claims: object) -> None:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    with pytest.raises(Unauthenticated) as caught:
        read_claims(f"amj1.{payload}.AAAA")
    assert caught.value.reason == "TOKEN_MALFORMED"


def test_claims_that_nest_without_end_are_refused() -> None:
    payload = base64.urlsafe_b64encode(b"[" * 1500).decode().rstrip("=")
    with pytest.raises(Unauthenticated):
        read_claims(f"amj1.{payload}.AAAA")


def test_a_token_serves_one_key_as_often_as_it_likes(tokens: JoinTokens) -> None:
    token, _ = tokens.create("a", MINUTE, fingerprint=CA)
    for _attempt in range(2):
        assert tokens.redeem(token, service="a", key_digest=ONE).service == "a"
    assert reason_of(tokens, token, key=TWO) == "TOKEN_USED"


def test_a_token_of_another_mesh_is_foreign(tokens: JoinTokens, tmp_path: Path, clock: Any) -> None:
    other = JoinTokens.open(tmp_path / "other", clock=clock)
    token, _ = other.create("a", MINUTE, fingerprint=CA)
    assert reason_of(tokens, token) == "TOKEN_FOREIGN"


def test_a_token_ends(tokens: JoinTokens, clock: Any) -> None:
    token, expires = tokens.create("a", MINUTE, fingerprint=CA)
    clock.now = expires - timedelta(microseconds=1)
    tokens.redeem(token, service="a", key_digest=ONE)
    clock.now = expires
    assert reason_of(tokens, token) == "TOKEN_EXPIRED"


def test_a_short_token_is_not_over_at_once(tokens: JoinTokens, clock: Any) -> None:
    clock.jump(milliseconds=999)
    token, expires = tokens.create("a", timedelta(milliseconds=10), fingerprint=CA)
    assert expires > clock()
    tokens.redeem(token, service="a", key_digest=ONE)


def test_a_token_serves_one_service_and_another_does_not_use_it_up(tokens: JoinTokens) -> None:
    token, _ = tokens.create("a", MINUTE, fingerprint=CA)
    with pytest.raises(PermissionDenied) as caught:
        tokens.redeem(token, service="b", key_digest=TWO)
    assert (caught.value.reason, caught.value.field) == ("TOKEN_WRONG_SERVICE", "service")
    tokens.redeem(token, service="a", key_digest=ONE)


@pytest.mark.parametrize("service", ["control-plane", "", "A", "a.b"])
def test_some_services_get_no_token(tokens: JoinTokens, service: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        tokens.create(service, MINUTE, fingerprint=CA)
    assert caught.value.field == "service"


def test_a_restart_forgets_neither_the_key_nor_the_uses(tokens: JoinTokens, folder: Path, clock: Any) -> None:
    used, _ = tokens.create("a", MINUTE, fingerprint=CA)
    fresh, _ = tokens.create("a", MINUTE, fingerprint=CA)
    tokens.redeem(used, service="a", key_digest=ONE)
    again = JoinTokens.open(folder, clock=clock)
    assert reason_of(again, used, key=TWO) == "TOKEN_USED"
    again.redeem(used, service="a", key_digest=ONE)
    again.redeem(fresh, service="a", key_digest=TWO)


def test_two_control_planes_on_one_folder_take_a_token_once(tokens: JoinTokens, folder: Path, clock: Any) -> None:
    other = JoinTokens.open(folder, clock=clock)
    token, _ = tokens.create("a", MINUTE, fingerprint=CA)
    other.redeem(token, service="a", key_digest=ONE)
    assert reason_of(tokens, token, key=TWO) == "TOKEN_USED"


def test_of_many_keys_at_once_one_gets_in(tokens: JoinTokens) -> None:
    token, _ = tokens.create("a", MINUTE, fingerprint=CA)

    def attempt(number: int) -> bool:
        try:
            tokens.redeem(token, service="a", key_digest=bytes([number]) * 32)
        except Unauthenticated:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


def test_a_clock_that_jumps_ahead_and_back_makes_no_token_good_again(tokens: JoinTokens, clock: Any) -> None:
    token, _ = tokens.create("a", MINUTE, fingerprint=CA)
    tokens.redeem(token, service="a", key_digest=ONE)
    clock.jump(days=400)
    later, _ = tokens.create("a", MINUTE, fingerprint=CA)
    tokens.redeem(later, service="a", key_digest=ONE)
    clock.jump(days=-400)
    assert reason_of(tokens, token, key=TWO) == "TOKEN_USED"


def test_a_clock_that_is_set_back_leaves_tokens_good(tokens: JoinTokens, clock: Any) -> None:
    token, _ = tokens.create("a", MINUTE, fingerprint=CA)
    clock.jump(days=-30)
    tokens.redeem(token, service="a", key_digest=ONE)


def test_what_is_remembered_is_bounded_but_for_what_lasts(
    tokens: JoinTokens, folder: Path, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "_REMEMBERED", 2)

    def use(count: int) -> None:
        for _ in range(count):
            token, _ = tokens.create("a", MINUTE, fingerprint=CA)
            tokens.redeem(token, service="a", key_digest=ONE)

    use(5)
    assert len(json.loads((folder / "tokens.used").read_text())) == 5
    clock.jump(hours=1)
    use(1)
    assert len(json.loads((folder / "tokens.used").read_text())) == 3


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"a": 1}', b'{"a": []}', b'{"a": ["b", "c"]}', b"[" * 9999])
def test_a_damaged_list_of_uses_is_named_with_a_fix_that_works(folder: Path, clock: Any, content: bytes) -> None:
    JoinTokens.open(folder, clock=clock)
    (folder / "tokens.used").write_bytes(content)
    with pytest.raises(FailedPrecondition, match=r"token\.key") as caught:
        JoinTokens.open(folder, clock=clock)
    assert caught.value.field == str(folder / "tokens.used")
    (folder / "tokens.used").unlink()
    (folder / "token.key").unlink()
    JoinTokens.open(folder, clock=clock)


def test_a_use_that_cannot_be_written_down_gets_no_certificate(
    tokens: JoinTokens, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, _ = tokens.create("a", MINUTE, fingerprint=CA)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FailedPrecondition, match="No space left") as caught:
        tokens.redeem(token, service="a", key_digest=ONE)
    assert caught.value.field == str(folder / "tokens.used")
    monkeypatch.undo()
    tokens.redeem(token, service="a", key_digest=TWO)


def test_files_are_private(tokens: JoinTokens, folder: Path) -> None:
    token, _ = tokens.create("a", MINUTE, fingerprint=CA)
    tokens.redeem(token, service="a", key_digest=ONE)
    assert {path.name for path in folder.iterdir()} == {"lock", "token.key", "tokens.used"}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert token.split(".")[2] not in (folder / "tokens.used").read_text()
