"""An MCP server as a child process: its stdin and stdout as the streams of the SDK.

The SDK's own `stdio_client` is not used: it reads lines of any length, ends a session's reader on stray bytes, and
leaves the process group and the exit code to itself. Here lines are bounded, what is not JSON-RPC is logged and
skipped, and an answer that cannot be read fails the one call that waits for it.
"""

import asyncio
import contextlib
import re
import shlex
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import ErrorData, JSONRPCError, JSONRPCRequest, JSONRPCResponse, jsonrpc_message_adapter
from pydantic import ValidationError

from mesh.errors import InvalidInput, Unavailable
from mesh.mcp.frames import INTERNAL_ERROR, UNREADABLE, BadFrame, answered_id
from mesh.mcp.lines import LineSplitter, OversizeLine
from mesh.mcp.noise import NoiseLog
from mesh.mcp.requests.mux import Mux
from mesh.mcp.wire import Wire
from mesh.runtime import Child, ChildSpec, open_child

_READ_BYTES = 64 * 1024
_AFTER_EXIT_SECONDS = 0.1
_MAX_OUTSTANDING = 4096
# Far above the SDK's own numbers, which begin at 1, and below 2**53, where JavaScript's end.
_FIRST_EXCHANGE_ID = 2**40
_ABSENT = object()
_SECRET = re.compile(r"(?i)(key|token|secret|passw|credential|auth|bearer)")


def check_command(command: tuple[str, ...]) -> None:
    """Raise InvalidInput unless the command can be started."""
    if not command or shutil.which(command[0]) is None:
        name = command[0] if command else ""
        raise InvalidInput(
            f"There is no command {name!r} on this machine.",
            field="command",
            fix="Check the spelling, install it, or give its full path.",
        )


def describe_command(command: tuple[str, ...]) -> str:
    """Write a command for a person, with what looks like a secret hidden."""
    words: list[str] = []
    hide_next = False
    for word in command:
        name, equals, _ = word.partition("=")
        if hide_next and not word.startswith("-"):
            words.append("***")
        elif equals and _SECRET.search(name):
            words.append(f"{name}=***")
        else:
            words.append(word)
        hide_next = word.startswith("-") and not equals and _SECRET.search(word) is not None
    text = shlex.join(words)
    return text if len(text) <= 200 else text[:199] + "…"


async def settle_exit(child: Child) -> None:
    """Wait a moment for a child whose output has ended, so that its exit code and its last words are known."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await child.wait()


def describe_exit(child: Child, command: tuple[str, ...]) -> str:
    """Say how a child has ended, with the last lines that it printed."""
    code = child.returncode
    if code is None:
        how = "runs, but is silent"
    elif code < 0:
        how = f"was killed by signal {-code}"
    else:
        how = f"exited with code {code}"
    last = [line[:300] for line in child.last_output[-5:]]
    said = "; it printed last: " + " | ".join(last) if last else "; it printed nothing on stderr"
    return f"`{describe_command(command)}` {how}{said}"


class OutputReader:
    """Reads a child's stdout to its end, which is also there when the child has exited.

    A process that the child left behind may hold the pipe open for ever; end of file alone would never come.
    """

    def __init__(self, child: Child) -> None:
        self._child = child
        self._ends_at: float | None = None
        self._reading: asyncio.Timeout | None = None
        self._exit = asyncio.ensure_future(child.wait())
        self._exit.add_done_callback(self._on_exit)

    async def read(self) -> bytes:
        """Return the next chunk, or nothing at the end."""
        stdout = self._child.stdout
        assert stdout is not None
        # One timeout that is hardly ever set, and no task for each chunk: that would cost more than the chunk.
        try:
            async with asyncio.timeout_at(self._ends_at) as self._reading:
                return await stdout.read(_READ_BYTES)
        except TimeoutError:
            return b""
        finally:
            self._reading = None

    def close(self) -> None:
        """Stop watching the child."""
        self._exit.cancel()

    def _on_exit(self, exited: "asyncio.Future[int]") -> None:
        if exited.cancelled():
            return
        # What the child wrote before it exited is in the pipe already.
        self._ends_at = asyncio.get_running_loop().time() + _AFTER_EXIT_SECONDS
        if self._reading is not None:
            self._reading.reschedule(self._ends_at)


@asynccontextmanager
async def open_stdio_wire(spec: ChildSpec, *, max_frame_bytes: int) -> AsyncIterator[Wire]:
    """Start the server and give its streams; on exit the whole process group is gone.

    `spec.pipe_stdio` must be set. The read stream ends when the child closes its stdout or stops reading its stdin.
    Raises InvalidInput when the command does not exist.
    """
    async with open_child(spec) as child, asyncio.TaskGroup() as tasks:
        # Unbuffered, so that a server that talks faster than it is listened to is held back by its pipe.
        read_writer, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write, write_reader = anyio.create_memory_object_stream[SessionMessage](0)
        pipes = _Pipes(spec.name, child, max_frame_bytes)
        receiver = tasks.create_task(pipes.receive(read_writer))
        sender = tasks.create_task(pipes.send(write_reader, read_writer))
        try:
            yield Wire(
                read, write, lambda: describe_exit(child, spec.command), lambda: settle_exit(child), pipes.exchange
            )
        finally:
            receiver.cancel()
            sender.cancel()
            pipes.exchange.end()
            for stream in (read_writer, read, write, write_reader):
                stream.close()
            if child.stdin is not None:
                child.stdin.close()


class _Pipes:
    """Moves messages between a child's pipes and the SDK's streams; what `exchange` asked for goes to it instead."""

    def __init__(self, name: str, child: Child, max_frame_bytes: int) -> None:
        self._name = name
        self._child = child
        self._noise = NoiseLog(name)
        self.exchange = Mux(self._write, max_bytes=max_frame_bytes, first_id=_FIRST_EXCHANGE_ID)
        self._splitter = LineSplitter(max_frame_bytes)
        self._limit = max_frame_bytes
        self._outstanding: dict[str | int, object] = {}

    async def receive(self, target: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        """Read the child's stdout to its end, then close `target`."""
        output = OutputReader(self._child)
        try:
            while chunk := await output.read():
                for line in self._splitter.feed(chunk):
                    await self._deliver(line, target)
            for line in self._splitter.finish():
                await self._deliver(line, target)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return  # nobody listens any more
        finally:
            output.close()
            target.close()
            self.exchange.end()

    async def send(
        self,
        source: MemoryObjectReceiveStream[SessionMessage],
        target: MemoryObjectSendStream[SessionMessage | Exception],
    ) -> None:
        """Write messages to the child's stdin; when that breaks, the connection is over in both directions."""
        stdin = self._child.stdin
        assert stdin is not None
        try:
            async for item in source:
                message = item.message
                if isinstance(message, JSONRPCRequest):
                    self._remember(message.id)
                stdin.write(message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                await stdin.drain()
        except (OSError, anyio.ClosedResourceError):
            target.close()
        finally:
            source.close()

    async def _deliver(
        self, line: bytes | OversizeLine, target: MemoryObjectSendStream[SessionMessage | Exception]
    ) -> None:
        message = None
        if isinstance(line, OversizeLine):
            why = f"the server's answer of {line.size} bytes is larger than the {self._limit} allowed"
            self._noise.warn("mcp_frame_too_large", size=line.size, limit=self._limit)
        elif not line.strip() or self._take(line):
            return
        else:
            try:
                message = jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValidationError:
                why = "the server's answer is not a valid JSON-RPC message"
                self._noise.warn("mcp_line_not_json_rpc", size=len(line), start=line[:120].decode(errors="replace"))
        if message is None:
            request_id = answered_id(line)
            if request_id is None or self.exchange.fail(request_id, why):
                return
            message = JSONRPCError(
                jsonrpc="2.0", id=request_id, error=ErrorData(code=INTERNAL_ERROR, message=why, data=UNREADABLE)
            )
        if isinstance(message, JSONRPCResponse | JSONRPCError) and not self._was_asked(message.id):
            self._noise.warn("mcp_answer_to_nothing", request_id=str(message.id)[:80])
            return
        await target.send(SessionMessage(message))

    def _take(self, line: bytes) -> bool:
        try:
            return self.exchange.offer(line)
        except BadFrame:
            return False  # told below, in the words of the SDK

    async def _write(self, frame: bytes, said: Mapping[str, Any]) -> None:
        stdin = self._child.stdin
        assert stdin is not None
        try:
            stdin.write(frame + b"\n")
            await stdin.drain()
        except OSError as err:
            raise Unavailable(f"MCP server {self._name!r} does not read its input any more: {err}.") from err

    def _remember(self, request_id: str | int) -> None:
        if len(self._outstanding) >= _MAX_OUTSTANDING:
            # Calls that were given up and never answered; the oldest go first.
            del self._outstanding[next(iter(self._outstanding))]
        self._outstanding[request_id] = None

    def _was_asked(self, request_id: str | int | None) -> bool:
        if request_id is None:
            return False
        if request_id not in self._outstanding and isinstance(request_id, str) and len(request_id) < 18:
            # Some servers give a number back as a string, which the SDK's dispatcher understands.
            request_id = int(request_id) if request_id.isascii() and request_id.isdigit() else request_id
        return self._outstanding.pop(request_id, _ABSENT) is not _ABSENT
