"""The server's end of a Link as a child process: lines pass byte for byte."""

from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from mesh.errors import Unavailable
from mesh.mcp.frames import INTERNAL_ERROR, BadFrame, answered_id, build_error_frame, parse_frame
from mesh.mcp.lines import LineSplitter, OversizeLine
from mesh.mcp.noise import NoiseLog
from mesh.mcp.stdio import OutputReader, describe_exit, settle_exit
from mesh.runtime import Child, ChildSpec, open_child

_NO_HEADERS: Mapping[str, str] = {}


class StdioPeer:
    """A child process that serves one Link."""

    def __init__(self, child: Child, spec: ChildSpec, max_frame_bytes: int) -> None:
        self._child = child
        self._spec = spec
        self._output = OutputReader(child)
        self._limit = max_frame_bytes
        self._splitter = LineSplitter(max_frame_bytes)
        self._lines: deque[bytes | OversizeLine] = deque()
        self._noise = NoiseLog(spec.name)

    async def send(self, frame: bytes, parsed: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Write the frame as one line; headers have no place on a pipe."""
        stdin = self._child.stdin
        assert stdin is not None
        try:
            stdin.write(frame + b"\n")
            await stdin.drain()
        except OSError as err:
            raise Unavailable(f"MCP server {self._spec.name!r} does not read its input any more: {err}.") from err

    async def close_send(self) -> None:
        """Close the child's stdin, which is how a client says goodbye to a stdio server."""
        if self._child.stdin is not None:
            self._child.stdin.close()

    async def receive(self) -> tuple[bytes, Mapping[str, str]] | None:
        """Return the child's next line that is a JSON-RPC message."""
        while True:
            while self._lines:
                frame = self._check(self._lines.popleft())
                if frame is not None:
                    return frame, _NO_HEADERS
            chunk = await self._output.read()
            if not chunk:
                return None
            self._lines.extend(self._splitter.feed(chunk))

    async def explain(self) -> str:
        """Tell how the child has ended."""
        await settle_exit(self._child)
        return describe_exit(self._child, self._spec.command)

    def close(self) -> None:
        """Stop watching the child."""
        self._output.close()

    def _check(self, line: bytes | OversizeLine) -> bytes | None:
        """Return the line if it is a frame, an error frame for the call that waits for it, or None."""
        if isinstance(line, OversizeLine):
            why = f"the server's answer of {line.size} bytes is larger than the {self._limit} allowed"
            self._noise.warn("mcp_frame_too_large", size=line.size, limit=self._limit)
        elif not line.strip():
            return None
        else:
            try:
                parse_frame(line, max_bytes=self._limit)
                return line
            except BadFrame as bad:
                why = f"the server's answer is not valid: {bad}"
                self._noise.warn("mcp_line_not_json_rpc", size=len(line), why=str(bad)[:200])
        request_id = answered_id(line)
        return None if request_id is None else build_error_frame(INTERNAL_ERROR, why, request_id)


@asynccontextmanager
async def open_stdio_peer(spec: ChildSpec, *, max_frame_bytes: int) -> AsyncIterator[StdioPeer]:
    """Start a child for one Link; on exit its whole process group is gone."""
    async with open_child(spec) as child:
        peer = StdioPeer(child, spec, max_frame_bytes)
        try:
            yield peer
        finally:
            peer.close()
