"""The answers in the storage, each with what shows that it may still be given."""

import hashlib
import secrets
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from services.gateway.cache.question import Question
from services.gateway.storage import Answers, Circuit

LARGEST = 1 << 20
"""Bytes of an answer; larger ones are not kept."""

LONGEST = 24 * 3600.0
"""Seconds for which an answer is kept at most, which the mesh document allows no more of."""

_EPOCH = 16
_FORM = struct.Struct(f">B d 32s {_EPOCH}s")
_VERSION = 1
_NO_EPOCH = bytes(_EPOCH)


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer, and when it came (seconds since 1970)."""

    body: bytes
    stored_at: float

    @property
    def etag(self) -> str:
        """A strong one (RFC 9110, section 8.8.3): the same for the same bytes."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'

    def to_bytes(self, digest: bytes, epoch: bytes) -> bytes:
        """As it is stored."""
        return _FORM.pack(_VERSION, self.stored_at, digest, epoch) + self.body

    @classmethod
    def from_bytes(cls, data: bytes | None, digest: bytes, epoch: bytes) -> Self | None:
        """Read what is stored; None for what is no answer to the question of that digest, or was purged."""
        if data is None or len(data) < _FORM.size:
            return None
        version, stored_at, of, since = _FORM.unpack_from(data)
        # The key has the digest, too. A storage that mixes answers up must not show one principal what is another's.
        if version != _VERSION or of != digest or since != epoch:
            return None
        return cls(data[_FORM.size :], stored_at)


@dataclass(frozen=True, slots=True)
class Found:
    """What there is for a question. `epoch` goes with an answer that is kept afterwards."""

    entry: Entry | None
    epoch: bytes


class Kept:
    """Finds, keeps and purges. Each raises Unavailable when the storage does not answer."""

    def __init__(self, answers: Answers, circuit: Circuit, *, clock: Callable[[], float] = time.time) -> None:
        self._answers = answers
        self._circuit = circuit
        self._clock = clock

    def received(self, body: bytes) -> Entry:
        """An answer that has come just now."""
        return Entry(body, self._clock())

    def age_of(self, entry: Entry) -> int:
        """Whole seconds since it came."""
        return max(0, int(self._clock() - entry.stored_at))

    async def find(self, question: Question) -> Found:
        """What is kept for a question."""
        keys = (_purged(question.service), _key(question))
        purged, data = await self._circuit.ask(lambda: self._answers.get(keys))
        epoch = purged or _NO_EPOCH
        return Found(Entry.from_bytes(data, question.digest, epoch), epoch)

    async def keep(self, question: Question, entry: Entry, epoch: bytes, lifetime: float) -> None:
        """Keep an answer for so many seconds. `epoch` is what was found before it was fetched."""
        data = entry.to_bytes(question.digest, epoch)
        await self._circuit.ask(lambda: self._answers.put(_key(question), data, min(lifetime, LONGEST)))

    async def purge(self, service: str) -> None:
        """Give nothing of what is kept of a service, or on its way, any more."""
        # It must outlive all that was kept before it; a random one never comes back.
        epoch = secrets.token_bytes(_EPOCH)
        await self._circuit.ask(lambda: self._answers.put(_purged(service), epoch, LONGEST + 60.0))


def _key(question: Question) -> str:
    return f"cache/{question.service}/{question.digest.hex()}"


def _purged(service: str) -> str:
    return f"purged/{service}"
