"""API keys: made, listed, replaced and revoked. Only hashes of them are kept."""

import base64
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from mesh.access.api_keys import ApiKeyText
from mesh.access.names import check_label, check_roles
from mesh.access.stored import Stored
from mesh.errors import FailedPrecondition, InvalidInput, NotFound

LONGEST_LIFE = 10 * 366 * 24 * 3600.0
_FORGOTTEN_AFTER = 90 * 24 * 3600.0
"""Seconds that a key that has ended stays listed."""
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """What is kept of a key. Times are seconds since 1970; None: does not end, was not revoked."""

    id: str
    label: str
    roles: tuple[str, ...]
    digest: bytes
    created: float
    creator: str
    expires: float | None = None
    revoked: float | None = None
    rotated_from: str = ""

    def has_ended(self, now: float) -> bool:
        """Whether it counts no more."""
        return self.revoked is not None or (self.expires is not None and now >= self.expires)

    def to_json(self) -> dict[str, Any]:
        """As it is kept."""
        return asdict(self) | {"roles": list(self.roles), "digest": base64.b64encode(self.digest).decode()}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Self:
        """Read what `to_json` gave."""
        return cls(**(facts | {"roles": tuple(facts["roles"]), "digest": base64.b64decode(facts["digest"])}))


class KeyStore:
    """The keys in one folder."""

    def __init__(self, directory: Path) -> None:
        self._stored = Stored(directory / "keys.json")

    def reload(self) -> bool:
        """Take over what another process has done; tells whether there was something."""
        return self._stored.reload()

    def all(self) -> list[ApiKeyRecord]:
        """All keys, newest first."""
        records = [ApiKeyRecord.from_json(facts) for facts in self._stored.content.values()]
        return sorted(records, key=lambda record: (-record.created, record.id))

    def create(
        self, *, label: str, roles: Iterable[str], lifetime: float | None, creator: str, now: float
    ) -> tuple[ApiKeyRecord, ApiKeyText]:
        """Make a key. The second value is the only place where its secret is."""
        check_label(label)
        _check_lifetime(lifetime)
        key = ApiKeyText.create()
        expires = None if lifetime is None else now + lifetime
        record = ApiKeyRecord(key.id, label, check_roles(roles), key.digest, now, creator, expires)

        def add(content: dict[str, Any]) -> None:
            _forget_old(content, now)
            if len(content) >= _MOST:
                raise FailedPrecondition(f"There are {_MOST} keys already.", fix="Revoke those that nobody needs.")
            content[record.id] = record.to_json()

        self._stored.change(add)
        return record, key

    def rotate(self, identifier: str, *, grace: float, creator: str, now: float) -> tuple[ApiKeyRecord, ApiKeyText]:
        """Make a key in place of another one, which ends after `grace` seconds."""
        if grace < 0:
            raise InvalidInput("A grace time cannot be negative.", field="grace", fix="Give 0 or more.")
        key = ApiKeyText.create()
        made: list[ApiKeyRecord] = []

        def change(content: dict[str, Any]) -> None:
            old = _find(content, identifier)
            if old.has_ended(now):
                raise FailedPrecondition(
                    f"The key {identifier} has ended already.", field="id", fix="Make a new one: `meshctl keys create`."
                )
            life = None if old.expires is None else old.expires - old.created
            expires = None if life is None else now + life
            fresh = ApiKeyRecord(
                key.id, old.label, old.roles, key.digest, now, creator, expires, rotated_from=identifier
            )
            end = now + grace
            content[identifier] = replace(old, expires=end if old.expires is None else min(end, old.expires)).to_json()
            content[fresh.id] = fresh.to_json()
            made.append(fresh)

        self._stored.change(change)
        return made[0], key

    def revoke(self, identifier: str, *, now: float) -> ApiKeyRecord:
        """End a key at once; one that was revoked stays so since then."""
        ended: list[ApiKeyRecord] = []

        def change(content: dict[str, Any]) -> None:
            record = _find(content, identifier)
            if record.revoked is None:
                record = replace(record, revoked=now)
                content[identifier] = record.to_json()
            ended.append(record)

        self._stored.change(change)
        return ended[0]


def _find(content: dict[str, Any], identifier: str) -> ApiKeyRecord:
    facts = content.get(identifier)
    if facts is None:
        raise NotFound(
            f"There is no API key {identifier[:80]!r}.",
            reason="UNKNOWN_KEY",
            field="id",
            fix="`meshctl keys list` has them.",
        )
    return ApiKeyRecord.from_json(facts)


def _check_lifetime(lifetime: float | None) -> None:
    if lifetime is not None and not 1 <= lifetime <= LONGEST_LIFE:
        raise InvalidInput(
            f"A key cannot live for {lifetime:g} s.", field="lifetime", fix="Give from 1 s to ten years, or nothing."
        )


def _forget_old(content: dict[str, Any], now: float) -> None:
    for identifier, facts in list(content.items()):
        record = ApiKeyRecord.from_json(facts)
        ends = [end for end in (record.expires, record.revoked) if end is not None]
        if ends and now - min(ends) > _FORGOTTEN_AFTER:
            del content[identifier]
