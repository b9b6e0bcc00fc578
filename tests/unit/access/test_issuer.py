"""Logins, tokens, and what stands against guessing."""

import jwt
import pytest

from mesh.access.attempts import Attempts
from mesh.access.issuer import AccessStores, TokenIssuer
from mesh.config.document.access import Tokens
from mesh.errors import AlreadyExists, InvalidInput, NotFound, ResourceExhausted, Unauthenticated

PASSWORD = "correct horse battery"


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stores(tmp_path, clock):
    made = AccessStores(tmp_path)
    made.signing.advance("EdDSA", now=clock.now, key_life=1e9, token_life=600)
    return made


@pytest.fixture
def issuer(stores, clock):
    return TokenIssuer(stores, Tokens, clock=clock)


@pytest.fixture
async def ada(stores, clock):
    return await stores.users.create("ada", PASSWORD, ["caller"], now=clock.now)


def claims_of(stores, issued):
    public = jwt.PyJWKSet.from_json(stores.signing.jwks()).keys[0]
    return jwt.decode(
        issued.access_token, public.key, algorithms=["EdDSA"], audience="agentmesh", options={"verify_exp": False}
    )


async def test_a_password_gives_a_token_for_its_user(issuer, stores, ada, clock):
    issued = await issuer.by_password("ada", PASSWORD, "192.0.2.7")
    claims = claims_of(stores, issued)
    assert (claims["sub"], claims["kind"], claims["roles"], claims["iss"]) == ("ada", "user", ["caller"], "agentmesh")
    assert claims["exp"] == clock.now + issued.expires_in == clock.now + 600
    assert PASSWORD not in repr(ada)


@pytest.mark.parametrize(("user", "password"), [("ada", "wrong"), ("bob", PASSWORD), ("ada", ""), ("", PASSWORD)])
async def test_wrong_words_are_refused_alike(issuer, ada, user, password):
    with pytest.raises(Unauthenticated) as found:
        await issuer.by_password(user, password, "")
    assert found.value.summary == "User or password is wrong."


async def test_who_guesses_has_to_wait(issuer, ada):
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            await issuer.by_password("ada", "wrong", "192.0.2.7")
    with pytest.raises(ResourceExhausted):
        await issuer.by_password("ada", PASSWORD, "192.0.2.8")
    with pytest.raises(ResourceExhausted):
        await issuer.by_password("bob", PASSWORD, "192.0.2.7")


def test_waits_grow_end_and_are_forgotten_by_a_success():
    clock = Clock()
    attempts = Attempts(clock=clock)
    for _ in range(7):
        attempts.failed("a")
    clock.now += 3.9
    with pytest.raises(ResourceExhausted):
        attempts.check("a")
    clock.now += 0.2
    attempts.check("a")
    attempts.succeeded("a")
    attempts.failed("a")
    attempts.check("a")


async def test_a_refresh_token_is_good_once_and_a_second_use_ends_the_login(issuer, stores, ada, clock):
    first = await issuer.by_password("ada", PASSWORD, "")
    second = await issuer.by_refresh_token(first.refresh_token)
    assert claims_of(stores, second)["sid"] == claims_of(stores, first)["sid"]
    with pytest.raises(Unauthenticated):
        await issuer.by_refresh_token(first.refresh_token)
    with pytest.raises(Unauthenticated):
        await issuer.by_refresh_token(second.refresh_token)
    assert stores.logins.ended(now=clock.now, token_life=600) == (claims_of(stores, first)["sid"],)
    assert stores.logins.ended(now=clock.now + 600, token_life=600) == ()


async def test_a_login_ends_at_its_time_and_by_a_logout(issuer, stores, ada, clock):
    issued = await issuer.by_password("ada", PASSWORD, "")
    other = await issuer.by_password("ada", PASSWORD, "")
    await issuer.revoke(issued.refresh_token)
    with pytest.raises(Unauthenticated):
        await issuer.by_refresh_token(issued.refresh_token)
    clock.now += 12 * 3600
    with pytest.raises(Unauthenticated):
        await issuer.by_refresh_token(other.refresh_token)
    await issuer.revoke("rt_junk")


async def test_a_disabled_user_gets_no_token_any_more(issuer, stores, ada, clock):
    issued = await issuer.by_password("ada", PASSWORD, "")
    await stores.users.update("ada", disabled=True)
    for again in (issuer.by_refresh_token(issued.refresh_token), issuer.by_password("ada", PASSWORD, "")):
        with pytest.raises(Unauthenticated):
            await again


async def test_an_api_key_gives_a_token_until_it_ends(issuer, stores, clock):
    record, key = stores.keys.create(label="", roles=["reader"], lifetime=60, creator="op", now=clock.now)
    for secret in (key.text, key.secret):
        claims = claims_of(stores, await issuer.by_key(record.id, secret, ""))
        assert (claims["sub"], claims["kind"], claims["roles"]) == (record.id, "key", ["reader"])
    for identifier, secret in ((record.id, "x"), ("am_0", key.text), (record.id, key.secret[:-1] + "!")):
        with pytest.raises(Unauthenticated):
            await issuer.by_key(identifier, secret, "")
    clock.now += 60
    with pytest.raises(Unauthenticated):
        await issuer.by_key(record.id, key.text, "")


async def test_users_are_made_changed_and_removed(stores, ada, clock):
    with pytest.raises(AlreadyExists):
        await stores.users.create("ada", PASSWORD, [], now=clock.now)
    assert (await stores.users.update("ada", roles=["reader"])).roles == ("reader",)
    await stores.users.update("ada", password="another long one")
    assert (await stores.users.verify("ada", "another long one")).name == "ada"
    stores.users.delete("ada")
    assert stores.users.all() == []
    with pytest.raises(NotFound):
        stores.users.delete("ada")
    for name, password in (("Ada", PASSWORD), ("ada", "short"), ("", PASSWORD)):
        with pytest.raises(InvalidInput):
            await stores.users.create(name, password, [], now=clock.now)


async def test_passwords_and_refresh_tokens_are_not_kept(issuer, ada, tmp_path):
    issued = await issuer.by_password("ada", PASSWORD, "")
    text = "".join(path.read_text() for path in tmp_path.glob("*.json"))
    assert PASSWORD not in text
    assert issued.refresh_token[-24:] not in text
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.glob("*.json"))
