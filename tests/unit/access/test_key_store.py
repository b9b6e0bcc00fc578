import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.access.api_keys import ApiKeyText
from mesh.access.key_store import KeyStore
from mesh.errors import FailedPrecondition, InvalidInput, NotFound

NOW = 1_000_000.0
DAY = 86_400.0


@pytest.fixture
def store(tmp_path):
    return KeyStore(tmp_path)


def make(store, **more):
    given_facts = {"label": "ci", "roles": ["caller"], "lifetime": None, "creator": "operator", "now": NOW}
    return store.create(**given_facts | more)


def test_the_secret_is_given_once_and_kept_nowhere(store, tmp_path):
    record, key = make(store)
    assert ApiKeyText.parse(key.text) == key
    assert key.fits(record.digest)
    assert key.secret not in (tmp_path / "keys.json").read_text()
    assert key.secret not in repr(key)


def test_a_key_ends_at_its_time(store):
    record, _ = make(store, lifetime=DAY)
    assert [record.has_ended(NOW + it) for it in (0, DAY - 1, DAY)] == [False, False, True]


def test_a_revoked_key_stays_so_since_then(store):
    record, _ = make(store)
    assert store.revoke(record.id, now=NOW + 1).revoked == NOW + 1
    assert store.revoke(record.id, now=NOW + 2).revoked == NOW + 1
    assert store.all()[0].has_ended(NOW + 1)


def test_a_key_is_replaced_by_one_with_its_roles_and_lifetime(store):
    old, _ = make(store, lifetime=DAY)
    fresh, key = store.rotate(old.id, grace=60, creator="operator", now=NOW + 100)
    assert (fresh.label, fresh.roles, fresh.rotated_from) == ("ci", ("caller",), old.id)
    assert fresh.expires == NOW + 100 + DAY
    assert key.fits(fresh.digest)
    known = {record.id: record for record in store.all()}
    assert known[old.id].expires == NOW + 160
    assert known[fresh.id].expires == fresh.expires


def test_grace_does_not_make_an_old_key_live_longer(store):
    old, _ = make(store, lifetime=10)
    store.rotate(old.id, grace=DAY, creator="operator", now=NOW)
    assert min(record.expires for record in store.all()) == NOW + 10


def test_what_has_ended_cannot_be_replaced(store):
    old, _ = make(store, lifetime=10)
    with pytest.raises(FailedPrecondition):
        store.rotate(old.id, grace=0, creator="operator", now=NOW + 10)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"roles": ["Not A Role"]}, "roles"),
        ({"label": "a\nb"}, "label"),
        ({"label": "a" * 201}, "label"),
        ({"lifetime": 0.0}, "lifetime"),
        ({"lifetime": 1e12}, "lifetime"),
    ],
)
def test_wrong_input_names_the_field(store, wrong, field):
    with pytest.raises(InvalidInput) as found:
        make(store, **wrong)
    assert found.value.field == field
    assert store.all() == []


def test_an_unknown_key_is_said_to_be_unknown(store):
    for call in (lambda: store.revoke("am_0", now=NOW), lambda: store.rotate("am_0", grace=0, creator="", now=NOW)):
        with pytest.raises(NotFound):
            call()


def test_keys_that_have_ended_long_ago_are_forgotten(store):
    old, _ = make(store, lifetime=10)
    kept, _ = make(store)
    make(store, now=NOW + 100 * DAY)
    assert old.id not in {record.id for record in store.all()}
    assert kept.id in {record.id for record in store.all()}


@given(st.text(max_size=80))
def test_junk_is_no_key_and_no_error(text):
    found = ApiKeyText.parse(text)
    assert found is None or found.text == text


def test_one_letter_makes_another_key():
    key = ApiKeyText.create()
    other = ApiKeyText.parse(key.text[:-1] + ("A" if key.text[-1] != "A" else "B"))
    assert other is not None
    assert not other.fits(key.digest)
