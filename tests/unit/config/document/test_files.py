import asyncio
import os

import pytest

from mesh.config import MeshSettings
from mesh.config.document import check_references, load_document
from mesh.config.document.files import environment_layers, read_layer_file, watch_files
from mesh.config.document.schema import SCHEMA_FILE, schema_text
from mesh.config.settings import CONFIG_DIR
from mesh.errors import InvalidInput, NotFound

FAST = 0.01


@pytest.mark.parametrize("environment", ["dev", "staging", "production"])
def test_the_document_of_each_environment_is_valid(environment):
    layers = environment_layers(environment)
    assert [layer.name for layer in layers] == ["defaults", environment]
    assert check_references(load_document(layers), ()) == ()


@pytest.mark.parametrize("name", ["defaults", "dev", "staging", "production"])
def test_editors_find_the_schema(name):
    first = (CONFIG_DIR / f"{name}.yaml").read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema={SCHEMA_FILE.name}"


def test_the_published_schema_is_that_of_the_models():
    assert SCHEMA_FILE.read_text() == schema_text(), "python -m mesh.config.document.schema writes it anew"


def test_production_denies_what_no_intention_allows():
    document = load_document(environment_layers("production")).document
    assert document.mesh.default_intention == "deny"
    assert load_document(environment_layers("dev")).document.mesh.default_intention == "allow"


@pytest.mark.parametrize("environment", ["prod", "", "../dev", "defaults", "mesh", "bootstrap"])
def test_an_unknown_environment_names_those_that_there_are(environment):
    with pytest.raises(NotFound, match="Use one of dev, production, staging"):
        environment_layers(environment)


def test_the_environment_and_the_places_are_settings(tmp_path):
    settings = MeshSettings.from_environment({"MESH_STATE_DIR": str(tmp_path)})
    assert (settings.environment, settings.config_dir) == ("dev", CONFIG_DIR)
    assert (settings.secrets_store, settings.secrets_key_file) == ("file", tmp_path / "secrets.key")
    with pytest.raises(InvalidInput, match="MESH_SECRETS_STORE"):
        MeshSettings.from_environment({"MESH_SECRETS_STORE": "etcd"})


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"nowhere\.yaml cannot be read"):
        read_layer_file(tmp_path / "nowhere.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match="UTF-8"):
        read_layer_file(tmp_path / "bad.yaml")


@pytest.fixture
async def watched(tmp_path):
    """Two files, and a function that gives the next texts of a watch on them."""
    paths = (tmp_path / "a.yaml", tmp_path / "b.yaml")
    for path in paths:
        path.write_text("one")
    stream = watch_files(paths, interval=FAST)

    async def following():
        texts = await asyncio.wait_for(anext(stream), 10)
        return tuple(texts[path] for path in paths)

    yield paths, following
    await stream.aclose()


async def test_files_are_given_at_once_and_after_each_change(watched):
    (first, second), following = watched
    assert await following() == ("one", "one")
    second.write_text("two")
    assert await following() == ("one", "two")
    first.with_suffix(".new").write_text("three")
    first.with_suffix(".new").replace(first)
    assert await following() == ("three", "two")


async def test_a_change_of_the_same_length_and_time_in_another_file_is_seen(watched):
    (first, _), following = watched
    await following()
    before = first.stat()
    fresh = first.with_suffix(".new")
    fresh.write_text("two")
    os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
    fresh.replace(first)
    assert await following() == ("two", "one")


async def test_a_file_that_is_gone_keeps_its_text_until_it_is_back(watched):
    (first, second), following = watched
    await following()
    first.unlink()
    second.write_text("two")
    assert await following() == ("one", "two")
    first.write_text("three")
    assert await following() == ("three", "two")


async def test_a_file_that_is_being_written_is_not_taken(tmp_path, monkeypatch):
    """A writer that is at it at every look: what it has at the end is taken, and nothing before."""
    path = tmp_path / "a.yaml"
    path.write_text("start")
    written = iter(["sta", "start of", "start of the", "start of the end"])
    real = os.stat

    looks = 0

    def look(target, **options):
        nonlocal looks
        looks += 1
        if looks > 1 and (text := next(written, None)) is not None:
            path.write_text(text)
        return real(target, **options)

    monkeypatch.setattr("mesh.config.document.files.Path.stat", look)
    stream = watch_files((path,), interval=FAST)
    assert await anext(stream) == {path: "start"}
    assert await asyncio.wait_for(anext(stream), 10) == {path: "start of the end"}
    await stream.aclose()


async def test_a_file_that_is_not_there_at_first_is_an_error(tmp_path):
    with pytest.raises(InvalidInput):
        await anext(watch_files((tmp_path / "none.yaml",), interval=FAST))
