import json

import pytest

from mesh.access.firewall import Firewall
from mesh.config.document import load_document
from mesh.config.document.edge import Firewall as FirewallPolicy
from mesh.config.document.files import environment_layers


def firewall(text):
    return Firewall(FirewallPolicy.model_validate_json(json.dumps(text)))


def one(where, pattern, **more):
    return firewall({"rules": {"it": {"where": where, "pattern": pattern, **more}}})


@pytest.fixture(scope="module")
def delivered():
    return Firewall(load_document(environment_layers("production")).document.edge.firewall)


def test_no_benign_request_is_found(delivered, benign_requests):
    assert len(benign_requests) >= 150
    found = [(it, delivered.inspect(*it)) for it in benign_requests]
    assert [(it, finding.rule) for it, finding in found if finding is not None] == []


def test_every_attack_is_refused(delivered, attacks):
    assert len(attacks) >= 60
    found = [(it, delivered.inspect(*it)) for it in attacks]
    assert [it for it, finding in found if finding is None or not finding.blocks] == []
