"""The chain of an audit: how lines hang together, and whether they still do.

Each line is one JSON object, its names sorted, without spaces, in ASCII; "previous" is the hash of the line before.
The last member is "hash": SHA-256, hexadecimal, over the bytes of the same object without that member.

Who can write the files can also make a new chain out of them. So the newest hash should be kept elsewhere from time to
time (gateways log it as `audit_head`); a chain in which it does not stand any more was made anew.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.access.audit_files import (
    LONGEST_LINE,
    START,
    Mark,
    audit_files,
    file_number,
    hash_in,
    is_audit,
    read_anchor,
    read_head,
)
from mesh.errors import FailedPrecondition, Unavailable

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in an audit.

    `lines` are good, from number `first` to `last`, and `hash` is that of the last one. `broken` is the first thing
    that is wrong, "" when nothing is, and `where` is FILE:LINE. `missing` counts what the writer itself has noted as
    missing, because too much waited to be written. `is_unfinished` says that a writer is in the middle of a line, or
    was killed in it.
    """

    lines: int = 0
    files: int = 0
    first: int = 0
    last: int = 0
    hash: str = START.hash
    missing: int = 0
    is_unfinished: bool = False
    broken: str = ""
    where: str = ""

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.broken


def link(sequence: int, previous: str, facts: Mapping[str, Any]) -> tuple[bytes, str]:
    """The line for some facts, and its hash."""
    text = json.dumps({**facts, "sequence": sequence, "previous": previous}, separators=(",", ":"), sort_keys=True)
    made = hashlib.sha256(text.encode()).hexdigest()
    return f'{text[:-1]},"hash":"{made}"}}\n'.encode(), made


def verify(directory: Path, *, known: Mapping[int, str] | None = None) -> Report:
    """Look at every line of an audit, which a gateway may be writing at this time.

    `known` are hashes by their numbers that were kept elsewhere. Raises FailedPrecondition when there is no audit in
    the folder, or it cannot be read; Unavailable when retention is faster.
    """
    if not is_audit(directory):
        raise FailedPrecondition(f"There is no audit in {directory}.", field=str(directory), fix="Name its folder.")
    for _ in range(_ATTEMPTS):
        try:
            anchor = read_anchor(directory)
            report = _verify(directory, anchor or START, known or {})
            # What retention drops at this very time is not missing.
            if report.is_good or read_anchor(directory) == anchor:
                return report
        except FailedPrecondition as err:
            return Report(broken=err.summary, where=Path(err.field).name)
        except FileNotFoundError:
            continue
        except OSError as err:
            raise FailedPrecondition(
                f"{err.filename} cannot be read: {err.strerror}.", field=str(err.filename), fix="Check who owns it."
            ) from err
    raise Unavailable(f"The files in {directory} are dropped faster than they are read.", fix="Keep more of them.")


class _Chain:
    """Lines, each of which has to follow the one before."""

    def __init__(self, anchor: Mark, known: Mapping[int, str]) -> None:
        self.anchor = anchor
        self.sequence, self.hash = anchor.sequence, anchor.hash
        self.missing = 0
        self._known = known

    def add(self, line: bytes) -> str:
        """What is wrong with the next line, "" when nothing is."""
        made = hash_in(line)
        if made is None:
            return "the line was changed: it is not the one that its hash was made of"
        if b'"previous":"%s"' % self.hash.encode() not in line:
            return f"lines are missing, or were put in: the line does not follow line {self.sequence}"
        if b'"sequence":%d,' % (self.sequence + 1) not in line:
            return f"the number of the line is not {self.sequence + 1}"
        self.sequence, self.hash = self.sequence + 1, made
        if self._known and self._known.get(self.sequence, made) != made:
            return f"the chain was made anew: line {self.sequence} had another hash"
        if b'"decision":"missing"' in line:
            self.missing += int(json.loads(line).get("count", 0))
        return ""


def _verify(directory: Path, anchor: Mark, kept: Mapping[int, str]) -> Report:
    # Before the lines: a writer goes on while they are read.
    head = read_head(directory)
    chain = _Chain(anchor, {**kept, **({head.sequence: head.hash} if head is not None else {})})
    files = audit_files(directory)
    broken = where = ""
    is_unfinished = False
    for path in files:
        for number, line in enumerate(_lines(path), 1):
            if not line.endswith(b"\n") and path == files[-1] and len(line) < LONGEST_LINE:
                is_unfinished = True
                break
            broken = chain.add(line[:-1])
            if broken:
                where = f"{path.name}:{number}"
                break
        if broken:
            break
    if not broken:
        broken, where = _missing_at_the_end(chain, head, kept)
    return Report(
        lines=chain.sequence - anchor.sequence,
        files=len(files),
        first=anchor.sequence + 1 if chain.sequence > anchor.sequence else 0,
        last=chain.sequence,
        hash=chain.hash,
        missing=chain.missing,
        is_unfinished=is_unfinished,
        broken=broken,
        where=where,
    )


def _missing_at_the_end(chain: _Chain, head: Mark | None, kept: Mapping[int, str]) -> tuple[str, str]:
    if head is None and chain.sequence:
        return "the head is missing: nobody can tell whether lines are missing at the end", "head.json"
    last = max([head.sequence if head is not None else 0, *kept])
    if last > chain.sequence:
        return f"{last - chain.sequence} lines are missing at the end", f"after line {chain.sequence}"
    return "", ""


def _lines(path: Path) -> Iterator[bytes]:
    if not file_number(path):
        return
    with path.open("rb") as file:
        yield from iter(lambda: file.readline(LONGEST_LINE), b"")
