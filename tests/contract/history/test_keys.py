"""What the places promise in which a history may be kept."""

import stat
from pathlib import Path

import pytest

from mesh.config.history import FileKeys
from mesh.discovery import ConsulEndpoint
from mesh.errors import FailedPrecondition, InvalidInput, Unavailable
from mesh.model import Address
from services.control_plane.config_keys import ConsulKeys


async def test_a_value_is_written_only_over_the_expected_version(keys, open_keys) -> None:
    assert await keys.put("active", b"1", expected="")
    assert not await keys.put("active", b"2", expected="")
    entry = await open_keys().get("active")
    assert entry is not None
    assert await keys.put("active", b"2", expected=entry.version)
    assert not await keys.put("active", b"3", expected=entry.version)
    assert (await keys.get("active")).value == b"2"


async def test_what_is_deleted_is_gone_and_may_be_deleted_again(keys) -> None:
    await keys.put("document", b"1")
    await keys.delete("document")
    await keys.delete("document")
    assert await keys.get("document") is None


async def test_a_watch_tells_of_a_document_that_was_edited_by_hand(keys, open_keys, within) -> None:
    changes = aiter(open_keys().watch())
    await keys.put("document", b"1")
    await within(anext(changes))
    await keys.put("document", b"2")
    await within(anext(changes))
    await changes.aclose()


async def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    keys = FileKeys(tmp_path / "config")
    await keys.put("revisions/1", b"1")
    found = [path for path in (tmp_path / "config").rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600}
    assert stat.S_IMODE((tmp_path / "config").stat().st_mode) == 0o700


async def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("")
    with pytest.raises(FailedPrecondition, match="config"):
        await FileKeys(tmp_path / "config").put("active", b"1")


async def test_consul_says_that_a_value_is_too_long(request: pytest.FixtureRequest) -> None:
    keys = ConsulKeys(request.getfixturevalue("consul"), prefix="agentmesh/long/")
    with pytest.raises(InvalidInput, match="524288 at most"):
        await keys.put("document", b"x" * (524288 + 1))


async def test_a_consul_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await ConsulKeys(ConsulEndpoint(Address("127.0.0.1", 9))).get("active")
