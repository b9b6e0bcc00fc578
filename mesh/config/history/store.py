"""The history itself, over any KeyStore.

    revisions/N   one revision, compressed; written before anything points to it
    active        the head: the one commit point, changed by compare-and-set
    document      the operator's layer as text; people may edit it, too

A process that is killed leaves the old head or the new one. What it wrote beyond the head nobody sees, and the next
revision of that number replaces it. The operator's layer follows the head: `settle` writes what a killed process left.
"""

import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from mesh.config.history.keys import Entry, KeyStore
from mesh.config.history.revision import Draft, Head, Refusal, Revision
from mesh.errors import FailedPrecondition, InvalidInput, NotFound

OPERATOR = "operator"
"""Name of the layer that is applied."""

_HEAD = "active"
_DOCUMENT = "document"
_REVISIONS = "revisions"

MOST_REVISIONS = 1000
_MOST_TRIES = 20


def _now() -> datetime:
    return datetime.now(UTC)


class RevisionStore:
    """The revisions of one mesh. Several processes may share one if the KeyStore may be shared."""

    def __init__(self, keys: KeyStore, *, most: int = MOST_REVISIONS, clock: Callable[[], datetime] = _now) -> None:
        self._keys = keys
        self._most = most
        self._clock = clock

    async def head(self) -> Head:
        """Which revisions count now; all numbers are 0 in a new history."""
        return (await self._head())[0]

    async def get(self, number: int) -> Revision:
        """One revision; raises NotFound for one that never was or is forgotten."""
        newest = (await self.head()).newest
        entry = await self._keys.get(_key(number)) if 0 < number <= newest else None
        if entry is None:
            raise NotFound(
                f"There is no revision {number}.",
                reason="UNKNOWN_REVISION",
                field="revision",
                fix=f"The newest is {newest}; see `meshctl history`." if newest else "The history is empty.",
            )
        return Revision.from_bytes(entry.value, place=_key(number))

    async def list(self, *, before: int = 0, count: int = 50) -> tuple[Revision, ...]:
        """The newest revisions, newest first; with `before` those with lower numbers only."""
        newest = (await self.head()).newest
        first = newest if before <= 0 else min(before - 1, newest)
        found = []
        for number in range(first, max(0, first - count), -1):
            entry = await self._keys.get(_key(number))
            if entry is None:
                break
            found.append(Revision.from_bytes(entry.value, place=_key(number)))
        return tuple(found)

    async def append(self, draft: Draft, *, newest: int, staged: bool = False) -> Revision:
        """Make the next revision, in force or staged, if `newest` still is the newest one.

        Raises FailedPrecondition (STALE_REVISION) when it is not: nothing has changed then.
        """
        claim = await self._claim(newest)
        revision = Revision(newest + 1, self._clock(), draft)
        number, text = revision.number, operator_text(revision)
        await self._write_claimed(revision, claim)
        found = await self._keys.get(_DOCUMENT)

        def commit(head: Head) -> Head:
            if head.newest != newest or head.staged or head.claim != claim:
                raise stale(newest, head)
            return replace(
                head,
                newest=number,
                active=head.active if staged else number,
                staged=number if staged else 0,
                good=head.good or number,
                operator=text_hash(text),
                before=text_hash(_text(found)),
                claim="",
            )

        await self._change(commit)
        if draft.applied:
            await self._keys.put(_DOCUMENT, text.encode())
        if number > self._most:
            await self._keys.delete(_key(number - self._most))
        return revision

    async def _claim(self, newest: int) -> str:
        """Say who is about to write the next revision; a later claim of the same number takes it over."""
        token = secrets.token_hex(8)

        def claim(head: Head) -> Head:
            if head.newest != newest or head.staged:
                raise stale(newest, head)
            return replace(head, claim=token)

        await self._change(claim)
        return token

    async def _write_claimed(self, revision: Revision, claim: str) -> None:
        """Write content beyond the head, over what a killed process or a loser left there.

        What is there is read before the claim is checked: one who has lost the claim by then can replace nothing that
        the winner writes afterwards.
        """
        key, value = _key(revision.number), revision.to_bytes()
        for _ in range(_MOST_TRIES):
            left = await self._keys.get(key)
            head = await self.head()
            if head.claim != claim:
                raise stale(revision.number - 1, head)
            if await self._keys.put(key, value, expected=_version(left)):
                return
        raise _busy()

    async def promote(self, number: int) -> Head:
        """Put a staged revision in force for all; raises FailedPrecondition when it is not staged any more."""

        def change(head: Head) -> Head:
            if head.staged != number:
                raise FailedPrecondition(f"Revision {number} is not staged.", reason="NOT_STAGED")
            return replace(head, active=number, staged=0)

        return await self._change(change)

    async def confirm(self, number: int) -> Head:
        """Note that a revision has passed its probation; one that was undone meanwhile has not."""
        return await self._change(
            lambda head: replace(head, good=number) if head.good < number <= head.active else head
        )

    async def undo(self, first: int, *, to: int, cause: str, refusals: Sequence[Refusal] = ()) -> Head:
        """Undo the revisions from `first` on: `to` is in force again. The cause is kept with the first one.

        Nothing changes when another has undone it already. An operator's layer that was applied is what it was before.
        """
        head = await self.head()
        if first > max(head.active, head.staged):
            return head
        found = _text(await self._keys.get(_DOCUMENT))
        restored = operator_text(await self.get(to)) if to else ""
        # The cause first: who sees that a revision was undone is to see why.
        undone = await self._note_causes(first, head.newest, cause, refusals)
        is_ours = any(revision.draft.applied and operator_text(revision) == found for revision in undone)

        def change(head: Head) -> Head:
            if first > max(head.active, head.staged):
                return head
            return replace(
                head,
                active=min(to, head.active),
                staged=0,
                operator=text_hash(restored),
                before=text_hash(found) if is_ours else "",
            )

        head = await self._change(change)
        await self._note_causes(first, head.newest, cause, refusals)
        if is_ours:
            await self._keys.put(_DOCUMENT, restored.encode())
        return head

    async def _note_causes(
        self, first: int, newest: int, cause: str, refusals: Sequence[Refusal]
    ) -> tuple[Revision, ...]:
        """Write why revisions are undone where it is not written yet; all of them."""
        found = []
        for number in range(first, newest + 1):
            revision = await self.get(number)
            if not revision.cause:
                is_first = number == first
                why = cause if is_first else f"It was made upon revision {first}, which was undone."
                revision = replace(revision, cause=why, refusals=tuple(refusals) if is_first else ())
                await self._keys.put(_key(number), revision.to_bytes())
            found.append(revision)
        return tuple(found)

    async def read_operator_layer(self) -> str:
        """The operator's layer as it stands in its place, "" when there is none; raises InvalidInput if no text."""
        return _text(await self._keys.get(_DOCUMENT))

    async def settle(self) -> None:
        """Finish what a killed process left: an undoing whose cause is written, or the operator's layer of the head."""
        head = await self.head()
        if head.newest:
            await self._finish_undoing(head)
            await self._finish_document()

    async def _finish_undoing(self, head: Head) -> None:
        candidates = [head.active, *([head.staged] if head.staged else [])]
        for number in candidates:
            revision = await self.get(number)
            if revision.cause:
                good = [found for found in range(number - 1, 0, -1) if await self._is_good(found, head)]
                await self.undo(number, to=good[0] if good else head.good, cause=revision.cause)
                return

    async def _is_good(self, number: int, head: Head) -> bool:
        return head.good <= number <= head.active and not (await self.get(number)).cause

    async def _finish_document(self) -> None:
        head = await self.head()
        revision = await self.get(head.staged or head.active)
        found = _text(await self._keys.get(_DOCUMENT))
        if revision.draft.applied and text_hash(found) == head.before and text_hash(found) != head.operator:
            await self._keys.put(_DOCUMENT, operator_text(revision).encode())

    async def watch(self) -> AsyncIterator[Head]:
        """Give the head at once and whenever it, or the operator's layer, may have changed. For ever; latest wins."""
        async for _ in self._keys.watch():
            yield await self.head()

    async def _head(self) -> tuple[Head, Entry | None]:
        entry = await self._keys.get(_HEAD)
        return (Head() if entry is None else Head.from_bytes(entry.value, place=_HEAD)), entry

    async def _change(self, change: Callable[[Head], Head]) -> Head:
        for _ in range(_MOST_TRIES):
            head, entry = await self._head()
            after = change(head)
            if after == head or await self._keys.put(_HEAD, after.to_bytes(), expected=_version(entry)):
                return after
        raise _busy()


def operator_text(revision: Revision) -> str:
    """The operator's layer of a revision, "" when it has none."""
    return next((layer.text for layer in revision.draft.layers if layer.name == OPERATOR), "")


def stale(expected: int, head: Head) -> FailedPrecondition:
    """Somebody else was first."""
    if head.staged:
        return FailedPrecondition(
            f"Revision {head.staged} is staged: it has gone to a part of the proxies.",
            reason="REVISION_STAGED",
            field="expected_revision",
            fix="Wait until it is promoted or undone (`meshctl config watch`), or undo it with `meshctl rollback`.",
        )
    if head.newest == expected:
        return FailedPrecondition(
            "Another change is being made at this moment.", reason="STALE_REVISION", fix="Apply again.", retryable=True
        )
    return FailedPrecondition(
        f"The newest revision is {head.newest}, not {expected}.",
        reason="STALE_REVISION",
        field="expected_revision",
        fix="Look at what has changed (`meshctl history`, `meshctl diff FILE`), and apply again.",
    )


def _busy() -> FailedPrecondition:
    return FailedPrecondition(
        "Others change the history all the time.", reason="HISTORY_BUSY", fix="Try again.", retryable=True
    )


def _key(number: int) -> str:
    return f"{_REVISIONS}/{number}"


def _version(entry: Entry | None) -> str:
    return "" if entry is None else entry.version


def _text(entry: Entry | None) -> str:
    if entry is None:
        return ""
    try:
        return entry.value.decode()
    except UnicodeDecodeError as err:
        raise InvalidInput(
            "The operator's layer is not text in UTF-8.", field=_DOCUMENT, fix="Write it anew with `meshctl apply`."
        ) from err


def text_hash(text: str) -> str:
    """What tells two texts apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
