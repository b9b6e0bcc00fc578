import json

import jwt
import pytest

from mesh.access.signing_keys import ANNOUNCED, SigningKeys

NOW = 1_000_000.0
LIFE = {"key_life": 1000.0, "token_life": 100.0}


@pytest.fixture
def keys(tmp_path):
    made = SigningKeys(tmp_path)
    assert made.advance("EdDSA", now=NOW, **LIFE)
    return made


def ids(keys):
    return [key["kid"] for key in json.loads(keys.jwks())["keys"]]


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256"])
def test_what_a_key_signs_the_key_set_verifies(tmp_path, algorithm):
    keys = SigningKeys(tmp_path)
    keys.advance(algorithm, now=NOW, **LIFE)
    signer = keys.signer(NOW)
    token = jwt.encode({"sub": "ada"}, signer.load(), algorithm=algorithm, headers={"kid": signer.id})
    public = jwt.PyJWKSet.from_json(keys.jwks())[signer.id]
    assert jwt.decode(token, public.key, algorithms=[algorithm])["sub"] == "ada"
    assert "d" not in json.loads(keys.jwks())["keys"][0]


def test_a_new_key_is_known_before_it_signs_and_the_old_one_while_its_tokens_live(keys):
    (first,) = ids(keys)
    fresh = keys.rotate("EdDSA", now=NOW + 50, token_life=100)
    assert set(ids(keys)) == {first, fresh.id}
    assert keys.signer(NOW + 50).id == first
    assert keys.signer(NOW + 50 + ANNOUNCED).id == fresh.id
    last_token_ends = NOW + 50 + ANNOUNCED + 100
    keys.advance("EdDSA", now=last_token_ends, **LIFE)
    assert first in ids(keys)
    keys.advance("EdDSA", now=last_token_ends + 100, **LIFE)
    assert ids(keys) == [fresh.id]


def test_an_old_key_is_replaced_by_itself_and_so_is_one_of_another_kind(keys):
    assert not keys.advance("EdDSA", now=NOW + 999, **LIFE)
    assert keys.advance("EdDSA", now=NOW + 1000, **LIFE)
    assert keys.advance("ES256", now=NOW + 1001, **LIFE)
    assert [key.algorithm for key in keys.all()][-1] == "ES256"


def test_another_process_sees_what_was_done(keys, tmp_path):
    other = SigningKeys(tmp_path)
    assert ids(other) == ids(keys)
    keys.rotate("EdDSA", now=NOW, token_life=1)
    assert other.reload()
    assert ids(other) == ids(keys)
    assert (tmp_path / "signing-keys.json").stat().st_mode & 0o777 == 0o600
