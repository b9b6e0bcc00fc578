"""Logins of users, and the refresh tokens that go on with them: each is good once.

One that is shown a second time was stolen from somebody: it ends the login, and with it all tokens that came from it
(RFC 9700, section 4.14.2).
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mesh.access.stored import Stored
from mesh.errors import Unauthenticated

_TOKEN = re.compile(r"rt_([0-9a-f]{24})_([A-Za-z0-9_-]{43})")
_MOST_PER_USER = 50


@dataclass(frozen=True, slots=True)
class LoginRecord:
    """One login; times are seconds since 1970. `digest` is the hash of the refresh token that is good now."""

    user: str
    created: float
    ends: float
    digest: str
    ended: float | None = None


class Logins:
    """The logins in one folder. `token_life` is the seconds that an access token lives."""

    def __init__(self, directory: Path) -> None:
        self._stored = Stored(directory / "logins.json")

    def reload(self) -> bool:
        """Take over what another process has done; tells whether there was something."""
        return self._stored.reload()

    def begin(self, user: str, *, now: float, life: float) -> tuple[str, str]:
        """Begin a login; gives its id and the first refresh token."""
        login, secret = secrets.token_hex(12), secrets.token_urlsafe(32)
        record = LoginRecord(user, now, now + life, _digest(secret))

        def add(content: dict[str, Any]) -> None:
            _forget_old(content, now)
            others = sorted((facts["created"], known) for known, facts in content.items() if facts["user"] == user)
            for _, known in others[: max(0, len(others) - _MOST_PER_USER + 1)]:
                content[known] = content[known] | {"ended": content[known]["ended"] or now}
            content[login] = asdict(record)

        self._stored.change(add)
        return login, f"rt_{login}_{secret}"

    def go_on(self, token: str, *, now: float) -> tuple[str, str, str]:
        """Use a refresh token up; gives the login's id, its user, and the next token. Raises Unauthenticated."""
        found = _TOKEN.fullmatch(token)
        if found is None:
            raise _refused()
        login, shown = found[1], found[2]
        secret = secrets.token_urlsafe(32)
        users: list[str] = []

        def change(content: dict[str, Any]) -> None:
            record = _record(content, login)
            if record is None or record.ended is not None or now >= record.ends:
                return
            if not hmac.compare_digest(record.digest, _digest(shown)):
                content[login] = asdict(replace(record, ended=now))
                return
            content[login] = asdict(replace(record, digest=_digest(secret)))
            users.append(record.user)

        self._stored.change(change)
        if not users:
            raise _refused()
        return login, users[0], f"rt_{login}_{secret}"

    def end(self, token: str, *, now: float) -> None:
        """End the login of a refresh token; what is none does nothing."""
        if found := _TOKEN.fullmatch(token):
            self._end_those(now, lambda login, record: login == found[1] and _digest(found[2]) == record.digest)

    def end_all_of(self, user: str, *, now: float) -> None:
        """End all logins of a user."""
        self._end_those(now, lambda _, record: record.user == user)

    def ended(self, *, now: float, token_life: float) -> tuple[str, ...]:
        """The logins that were ended before their tokens have ended, sorted."""
        return tuple(
            sorted(
                login
                for login, facts in self._stored.content.items()
                if facts["ended"] is not None and now < facts["ended"] + token_life
            )
        )

    def _end_those(self, now: float, is_meant: Any) -> None:
        def change(content: dict[str, Any]) -> None:
            for login in list(content):
                record = _record(content, login)
                if record is not None and record.ended is None and is_meant(login, record):
                    content[login] = asdict(replace(record, ended=now))

        self._stored.change(change)


def _record(content: dict[str, Any], login: str) -> LoginRecord | None:
    facts = content.get(login)
    return None if facts is None else LoginRecord(**facts)


def _forget_old(content: dict[str, Any], now: float) -> None:
    for login, facts in list(content.items()):
        if now >= facts["ends"]:
            del content[login]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _refused() -> Unauthenticated:
    return Unauthenticated(
        "The refresh token is not good, or was used already.",
        reason="REFRESH_REFUSED",
        field="refresh_token",
        fix="Log in again: `meshctl login`.",
    )
