"""Users, who log in with a password. Of passwords only hashes (argon2id, RFC 9106) are kept."""

import asyncio
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from mesh.access.names import check_roles, check_user_name
from mesh.access.stored import Stored
from mesh.errors import AlreadyExists, InvalidInput, NotFound, Unauthenticated

SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 1024

_AT_ONCE = 2
"""Hashes worked out side by side: each takes 64 MB and all of a core."""

_hasher = PasswordHasher()
# Of no password: so that an unknown user costs as much time as a known one.
_NOBODY = _hasher.hash("")


@dataclass(frozen=True, slots=True)
class UserRecord:
    """What is kept of a user; `created` is seconds since 1970."""

    name: str
    roles: tuple[str, ...]
    password_hash: str
    created: float
    disabled: bool = False

    def to_json(self) -> dict[str, Any]:
        """As it is kept."""
        return asdict(self) | {"roles": list(self.roles)}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Self:
        """Read what `to_json` gave."""
        return cls(**(facts | {"roles": tuple(facts["roles"])}))


class UserStore:
    """The users in one folder."""

    def __init__(self, directory: Path) -> None:
        self._stored = Stored(directory / "users.json")
        self._hashing = asyncio.Semaphore(_AT_ONCE)

    def reload(self) -> bool:
        """Take over what another process has done; tells whether there was something."""
        return self._stored.reload()

    def all(self) -> list[UserRecord]:
        """All users, sorted by name."""
        return [UserRecord.from_json(facts) for _, facts in sorted(self._stored.content.items())]

    async def create(self, name: str, password: str, roles: Iterable[str], *, now: float) -> UserRecord:
        """Make a user."""
        check_user_name(name)
        record = UserRecord(name, check_roles(roles), await self._hash(password), now)

        def add(content: dict[str, Any]) -> None:
            if name in content:
                raise AlreadyExists(
                    f"There is a user {name!r} already.", reason="USER_EXISTS", field="name", fix="Choose another name."
                )
            content[name] = record.to_json()

        await asyncio.to_thread(self._stored.change, add)
        return record

    async def update(
        self,
        name: str,
        *,
        password: str | None = None,
        roles: Iterable[str] | None = None,
        disabled: bool | None = None,
    ) -> UserRecord:
        """Change what is given."""
        changes: dict[str, Any] = {}
        if password is not None:
            changes["password_hash"] = await self._hash(password)
        if roles is not None:
            changes["roles"] = check_roles(roles)
        if disabled is not None:
            changes["disabled"] = disabled
        made: list[UserRecord] = []

        def change(content: dict[str, Any]) -> None:
            made.append(replace(_find(content, name), **changes))
            content[name] = made[0].to_json()

        await asyncio.to_thread(self._stored.change, change)
        return made[0]

    def delete(self, name: str) -> None:
        """Remove a user."""

        def change(content: dict[str, Any]) -> None:
            _find(content, name)
            del content[name]

        self._stored.change(change)

    async def verify(self, name: str, password: str) -> UserRecord:
        """The user of that name and password. Raises Unauthenticated, in the same time, whatever is wrong."""
        facts = self._stored.content.get(name)
        record = UserRecord.from_json(facts) if facts is not None else None
        async with self._hashing:
            fits = await asyncio.to_thread(_fits, record.password_hash if record else _NOBODY, password)
        if record is None or not fits or record.disabled:
            raise Unauthenticated("User or password is wrong.", reason="LOGIN_REFUSED", fix="Check both.")
        if _hasher.check_needs_rehash(record.password_hash):
            return await self.update(name, password=password)
        return record

    async def _hash(self, password: str) -> str:
        if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            raise InvalidInput(
                "The password is too short or too long.",
                field="password",
                fix=f"Use {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters.",
            )
        async with self._hashing:
            return await asyncio.to_thread(_hasher.hash, password)


def _fits(password_hash: str, password: str) -> bool:
    if len(password) > LONGEST_PASSWORD:
        password = ""
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


def _find(content: dict[str, Any], name: str) -> UserRecord:
    facts = content.get(name)
    if facts is None:
        raise NotFound(
            f"There is no user {name[:80]!r}.",
            reason="UNKNOWN_USER",
            field="name",
            fix="`meshctl users list` has them.",
        )
    return UserRecord.from_json(facts)
