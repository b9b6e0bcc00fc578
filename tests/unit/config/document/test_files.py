import pytest

from mesh.config import MeshSettings
from mesh.config.document import Layer, check_references, load_document
from mesh.config.document.files import environment_layers, read_layer_file
from mesh.config.document.schema import SCHEMA_FILE, schema_text
from mesh.config.settings import CONFIG_DIR
from mesh.errors import InvalidInput, NotFound


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


def test_what_is_applied_adds_to_the_intentions_of_an_environment_or_takes_one_away():
    def intentions(text):
        layers = [*environment_layers("production"), Layer("operator", "operator", text)]
        return load_document(layers).document.intentions

    mine = "mine: {action: allow, callers: [a], services: [b]}"
    assert intentions(f"intentions: {{{mine}}}").keys() == {"edge", "mine"}
    assert intentions(f"intentions: {{edge: null, {mine}}}").keys() == {"mine"}
