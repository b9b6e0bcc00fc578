"""SIGTERM in a real process: nothing that is in flight fails."""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import grpc
import pytest

from mesh.rpc import open_target

SERVER = Path(__file__).parent / "servers" / "draining.py"


@contextlib.asynccontextmanager
async def running_server(socket, grace):
    process = await asyncio.create_subprocess_exec(sys.executable, SERVER, socket, str(grace))
    try:
        async with asyncio.timeout(30), open_target(f"unix:{socket}") as channel:
            while not socket.exists():
                await asyncio.sleep(0.01)
            await channel.channel_ready()
            yield process, channel
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def read_all(stream):
    answers = []
    while (answer := await stream.read()) is not grpc.aio.EOF:
        answers.append(answer)
    return answers


async def test_sigterm_lets_calls_and_streams_finish_and_refuses_new_ones(short_dir):
    async with running_server(short_dir / "s.sock", 10) as (process, channel):
        call = channel.unary_unary("/test.v1.Slow/Slow")(b"1.0")
        stream = channel.unary_stream("/test.v1.Slow/Count")(b"100")
        assert await stream.read() == b"0"
        process.send_signal(signal.SIGTERM)
        rest = await read_all(stream)
        assert await call == b"finished"
        assert len(rest) == 99
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test.v1.Slow/Slow")(b"0", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await process.wait() == 0


async def test_a_call_that_does_not_end_is_cut_when_the_grace_is_over(short_dir):
    async with running_server(short_dir / "s.sock", 0.3) as (process, channel):
        stream = channel.unary_stream("/test.v1.Slow/Count")(b"100000")
        await stream.read()
        process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError):
            await read_all(stream)
        assert await process.wait() == 0
