from dataclasses import replace
from pathlib import Path

import yaml

from mesh.config import MeshSettings
from mesh.config.document import Layer, MeshDocument, load_document
from mesh.config.settings import CONFIG_DIR
from services.meshctl.production import look_at_audit, look_at_document, look_at_settings


def document_of(environment: str) -> MeshDocument:
    """What the files of the repository say for an environment."""
    names = ("defaults", environment)
    return load_document([Layer(it, it, (CONFIG_DIR / f"{it}.yaml").read_text()) for it in names]).document


def wrong(findings) -> set[str]:
    return {finding.what for finding in findings if not finding.is_well}


def test_the_layer_for_production_has_all_that_it_takes():
    assert wrong(look_at_document(document_of("production"))) == set()
    assert wrong(look_at_document(document_of("staging"))) == set()


def test_the_layer_for_developers_has_not():
    found = wrong(look_at_document(document_of("dev")))
    assert found == {"intentions", "door without TLS", "anonymous callers", "limit per principal"}


def test_each_setting_that_is_taken_back_is_told_with_what_to_apply():
    text = """
edge: {cors: {origins: ["*"]}, firewall: {mode: log}}
access:
  audit: {reads: false}
  tokens: {access_lifetime: 2h}
  roles: {r: {}}
  bindings: {all: {anonymous: true, roles: [r]}}
"""
    document = MeshDocument.model_validate(yaml.safe_load(text))
    found = [finding for finding in look_at_document(document) if not finding.is_well]
    assert {"CORS", "firewall", "audit of what is allowed", "life of tokens", "anonymous callers"} <= wrong(found)
    assert all(finding.fix for finding in found)
    assert any("access.bindings.all: null" in finding.fix for finding in found)


def test_what_the_environment_says_is_looked_at_too(tmp_path: Path):
    settings = MeshSettings.from_environment({})
    assert wrong(look_at_settings(settings)) == {"environment", "certificate of the edge"}
    good = replace(
        settings, environment="production", edge_certificate=tmp_path / "cert.pem", edge_key=tmp_path / "key"
    )
    assert wrong(look_at_settings(good)) == set()
    assert wrong(look_at_settings(replace(good, cache_url="memory://"))) == {"shared limits"}


def test_an_audit_that_is_not_there_is_told(tmp_path: Path):
    settings = replace(MeshSettings.from_environment({}), state_dir=tmp_path)
    assert not look_at_audit(settings).is_well
