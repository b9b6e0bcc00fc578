"""Gives tokens for passwords, API keys and refresh tokens."""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jwt

from mesh.access.api_keys import ApiKeyText
from mesh.access.attempts import Attempts
from mesh.access.key_store import KeyStore
from mesh.access.logins import Logins
from mesh.access.signing_keys import SigningKeys
from mesh.access.user_store import UserStore
from mesh.config.document.access import Tokens
from mesh.errors import Unauthenticated


@dataclass(frozen=True, slots=True)
class Issued:
    """Tokens; `expires_in` is the seconds that the access token lives, `refresh_token` is "" for clients."""

    access_token: str
    expires_in: int
    refresh_token: str = ""


class AccessStores:
    """All that decides about who may come in but for the mesh document: kept in one folder, shared by control planes.

    Raises FailedPrecondition when a file in it is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.keys = KeyStore(directory)
        self.users = UserStore(directory)
        self.signing = SigningKeys(directory)
        self.logins = Logins(directory)

    def reload(self) -> bool:
        """Take over what other control planes have done; tells whether there was something."""
        # Each of them, and not only up to the first.
        return True in [store.reload() for store in (self.keys, self.users, self.signing, self.logins)]


class TokenIssuer:
    """Checks what is shown and signs tokens; `policy` gives what the mesh document says of tokens."""

    def __init__(
        self, stores: AccessStores, policy: Callable[[], Tokens], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._stores = stores
        self._policy = policy
        self._clock = clock
        self._attempts = Attempts()

    async def by_password(self, user: str, password: str, client: str) -> Issued:
        """Log a user in. Raises Unauthenticated, and ResourceExhausted after too many failures."""
        subjects = tuple(subject for subject in (f"user {user[:64]}", f"address {client}" if client else "") if subject)
        self._attempts.check(*subjects)
        try:
            record = await self._stores.users.verify(user, password)
        except Unauthenticated:
            self._attempts.failed(*subjects)
            raise
        self._attempts.succeeded(*subjects)
        policy, now = self._policy(), self._clock()
        login, refresh = await asyncio.to_thread(
            self._stores.logins.begin, record.name, now=now, life=policy.refresh_lifetime.total_seconds()
        )
        return self._issue("user", record.name, record.roles, login, refresh)

    async def by_key(self, identifier: str, secret: str, client: str) -> Issued:
        """Give a client a token for its API key. Raises Unauthenticated, and ResourceExhausted after many failures."""
        subjects = (f"address {client}",) if client else ()
        self._attempts.check(*subjects)
        key = ApiKeyText.parse(secret) or ApiKeyText.parse(f"{identifier}_{secret}")
        known = next((record for record in self._stores.keys.all() if key is not None and record.id == key.id), None)
        fits = key is not None and known is not None and key.id == identifier and key.fits(known.digest)
        if known is None or not fits or known.has_ended(self._clock()):
            self._attempts.failed(*subjects)
            raise Unauthenticated(
                "The client or its secret is wrong.", reason="CLIENT_REFUSED", fix="Check them, or make a new key."
            )
        self._attempts.succeeded(*subjects)
        return self._issue("key", known.id, known.roles, "", "")

    async def by_refresh_token(self, token: str) -> Issued:
        """Go on with a login. Raises Unauthenticated."""
        login, name, refresh = await asyncio.to_thread(self._stores.logins.go_on, token, now=self._clock())
        user = next((record for record in self._stores.users.all() if record.name == name), None)
        if user is None or user.disabled:
            raise Unauthenticated(f"The user {name} may not log in.", reason="USER_DISABLED")
        return self._issue("user", name, user.roles, login, refresh)

    async def revoke(self, token: str) -> None:
        """End the login of a refresh token."""
        await asyncio.to_thread(self._stores.logins.end, token, now=self._clock())

    def _issue(self, kind: str, name: str, roles: tuple[str, ...], login: str, refresh: str) -> Issued:
        policy, now = self._policy(), self._clock()
        life = int(policy.access_lifetime.total_seconds())
        claims = {
            "iss": policy.issuer,
            "aud": policy.audience,
            "sub": name,
            "kind": kind,
            "roles": list(roles),
            "iat": int(now),
            "exp": int(now) + life,
            "jti": secrets.token_hex(8),
            **({"sid": login} if login else {}),
        }
        key = self._stores.signing.signer(now)
        text = jwt.encode(claims, key.load(), algorithm=key.algorithm, headers={"kid": key.id})
        return Issued(text, life, refresh)
