"""Splits a byte stream into lines with bounded memory. Does no I/O."""

from dataclasses import dataclass

EDGE_BYTES = 512


@dataclass(frozen=True, slots=True)
class OversizeLine:
    """A line that was longer than allowed; only its first and last 512 bytes were kept."""

    size: int
    head: bytes
    tail: bytes


class LineSplitter:
    """Turns chunks into lines without their line ends; a line longer than `limit` bytes becomes an OversizeLine.

    Holds at most `limit` bytes plus one chunk, whatever the other side sends.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._head = b""
        self._tail = b""
        self._dropped = 0

    def feed(self, chunk: bytes) -> list[bytes | OversizeLine]:
        """Take a chunk; return the lines that it completes, in order."""
        lines: list[bytes | OversizeLine] = []
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._append(chunk[start:end])
            lines.append(self._take())
            start = end + 1
        self._append(chunk[start:])
        return lines

    def finish(self) -> list[bytes | OversizeLine]:
        """Return the last line when the stream ended without a line end."""
        return [self._take()] if self._buffer or self._dropped else []

    def _append(self, part: bytes) -> None:
        if self._dropped:
            self._dropped += len(part)
            self._tail = (self._tail + part[-EDGE_BYTES:])[-EDGE_BYTES:]
            return
        self._buffer += part
        if len(self._buffer) > self._limit:
            self._head = bytes(self._buffer[:EDGE_BYTES])
            self._tail = bytes(self._buffer[-EDGE_BYTES:])
            self._dropped = len(self._buffer)
            self._buffer = bytearray()

    def _take(self) -> bytes | OversizeLine:
        if self._dropped:
            line: bytes | OversizeLine = OversizeLine(self._dropped, self._head, self._tail.rstrip(b"\r"))
            self._head = self._tail = b""
            self._dropped = 0
            return line
        taken = bytes(self._buffer).rstrip(b"\r")
        self._buffer.clear()
        return taken
