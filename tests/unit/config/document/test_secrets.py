import asyncio
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.fernet import Fernet

from mesh.config.document import Layer, load_document
from mesh.config.document.secret_store import FileShelf, SecretBox, SecretStore
from mesh.config.document.secrets import SecretSources, references_of, resolve_secrets
from mesh.errors import DocumentInvalid, FailedPrecondition, InvalidInput


@pytest.fixture
def store(tmp_path):
    return SecretStore(FileShelf(tmp_path / "state" / "secrets"), SecretBox.open(tmp_path / "state" / "secrets.key"))


def document(*references):
    headers = "".join(f"\n            x-{n}: {{secret: '{reference}'}}" for n, reference in enumerate(references))
    lines = ["services:", "  a:", "    routes:", "      - name: r", "        headers:", "          request:"]
    text = "\n".join([*lines, f"           set:{headers}\n"])
    return load_document([Layer("it", "it.yaml", text)])


async def test_a_secret_is_kept_until_it_is_removed(store):
    await store.set("team/api-key", "hunter2")
    await store.set("other", "x")
    assert await store.get("team/api-key") == "hunter2"
    assert await store.list() == ["other", "team/api-key"]
    assert await store.remove("other")
    assert not await store.remove("other")
    assert await store.get("other") is None


async def test_nothing_on_disk_tells_a_value_and_only_the_owner_can_read(store, tmp_path):
    await store.set("a", "hunter2")
    for path in (tmp_path / "state").rglob("*"):
        assert b"hunter2" not in (path.read_bytes() if path.is_file() else b"")
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


async def test_a_second_store_reads_what_the_first_has_set(store, tmp_path):
    await store.set("a", "hunter2")
    other = SecretStore(FileShelf(tmp_path / "state" / "secrets"), SecretBox.open(tmp_path / "state" / "secrets.key"))
    assert await other.get("a") == "hunter2"


async def test_another_key_does_not_open_a_secret_and_a_new_first_key_does(store, tmp_path):
    await store.set("a", "hunter2")
    key = tmp_path / "state" / "secrets.key"
    old = key.read_bytes()
    shelf = FileShelf(tmp_path / "state" / "secrets")
    key.write_bytes(Fernet.generate_key())
    with pytest.raises(FailedPrecondition, match="cannot be read with the key") as caught:
        await SecretStore(shelf, SecretBox.open(key)).get("a")
    assert "hunter2" not in str(caught.value)
    key.write_bytes(Fernet.generate_key() + b"\n" + old)
    assert await SecretStore(shelf, SecretBox.open(key)).get("a") == "hunter2"


async def test_one_secret_cannot_be_put_in_the_place_of_another(store, tmp_path):
    shelf = FileShelf(tmp_path / "state" / "secrets")
    await store.set("a", "hunter2")
    await shelf.put("b", await shelf.get("a"))
    with pytest.raises(FailedPrecondition):
        await store.get("b")


async def test_a_key_file_without_keys_is_named(tmp_path):
    (tmp_path / "key").write_text("abc")
    with pytest.raises(FailedPrecondition, match="holds no keys"):
        SecretBox.open(tmp_path / "key")


async def test_a_file_that_holds_something_else_is_named(store, tmp_path):
    await store.set("a", "b")
    (tmp_path / "state" / "secrets" / "secrets.json").write_text("[1]")
    with pytest.raises(FailedPrecondition, match="holds no secrets"):
        await store.get("a")


def test_the_first_uses_at_once_agree_on_one_key(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        boxes = list(pool.map(lambda _: SecretBox.open(tmp_path / "key"), range(8)))
    assert {box.unseal("a", boxes[0].seal("a", "x")) for box in boxes} == {"x"}
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


async def test_writers_at_once_lose_nothing(store):
    await asyncio.gather(*(store.set(f"s{n}", "x") for n in range(10)))
    assert len(await store.list()) == 10


@pytest.mark.parametrize("name", ["", "a b", "../a", "a//b", "/a", "a" * 201, ".a"])
async def test_a_name_that_is_none_is_refused(store, name):
    with pytest.raises(InvalidInput, match="name"):
        await store.set(name, "x")


@pytest.mark.parametrize("value", ["", "two\nlines", "a\0", "x" * 70_000])
async def test_a_value_that_is_none_is_refused_and_not_told(store, value):
    with pytest.raises(InvalidInput) as caught:
        await store.set("a", value)
    assert not value or value not in str(caught.value)


async def test_each_reference_is_resolved(store, tmp_path):
    (tmp_path / "token").write_text("from-file\n")
    await store.set("a/b", "from-kv")
    loaded = document("env:TOKEN", f"file:{tmp_path}/token", "kv:a/b", "env:TOKEN")
    values = await resolve_secrets(loaded, SecretSources(store, {"TOKEN": "from-env"}))
    assert dict(values) == {"env:TOKEN": "from-env", f"file:{tmp_path}/token": "from-file", "kv:a/b": "from-kv"}
    assert len(list(references_of(loaded.document))) == 4


async def test_what_is_missing_is_told_with_field_line_and_reference(store, tmp_path):
    (tmp_path / "lines").write_text("hunter2\nhunter3")
    (tmp_path / "dir").mkdir()
    references = [
        "env:NONE",
        "file:/no/such",
        "kv:none",
        f"file:{tmp_path}/lines",
        f"file:{tmp_path}/dir",
        "env:MESH_X",
    ]
    with pytest.raises(DocumentInvalid) as caught:
        await resolve_secrets(document(*references), SecretSources(store, {"MESH_X": "hunter4"}))
    found = [(fault.line, fault.field.rpartition(".")[2], fault.reason) for fault in caught.value.faults]
    assert [(line, name) for line, name, _ in found] == [(8 + n, f"x-{n}") for n in range(6)]
    for reference, (_, _, reason), words in zip(
        references,
        found,
        ["no such variable", "No such file", "meshctl secrets set none", "one line", "no file", "the mesh's own"],
        strict=True,
    ):
        assert reason.startswith(f"{reference}: ")
        assert words in reason
    assert "hunter" not in str(caught.value)


async def test_the_meshs_own_files_are_no_secrets_for_documents(store, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "root.key").write_text("hunter2")
    (tmp_path / "link").symlink_to(own / "root.key")
    loaded = document(f"file:{own}/root.key", f"file:{tmp_path}/link", f"file:{own}/../own/root.key")
    with pytest.raises(DocumentInvalid) as caught:
        await resolve_secrets(loaded, SecretSources(store, {}, private_dirs=(own,)))
    assert len(caught.value.faults) == 3
    assert all("the mesh's own" in fault.reason for fault in caught.value.faults)
