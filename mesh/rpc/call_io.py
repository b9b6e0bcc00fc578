"""The servicer context that handlers get.

handler ── write, send_initial_metadata, abort ──> CallIo ── one Operation at a time ──> gRPC's core
"""

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

import grpc

Metadata = tuple[tuple[str, str | bytes], ...]


class Operation:
    """One sending operation of gRPC's core, which goes on when whoever waits for it is cancelled.

    The core has room for one operation of each kind, and a cancelled coroutine of grpc.aio forgets the one that it has
    begun: the next of its kind fails with GRPC_CALL_ERROR_TOO_MANY_OPERATIONS. When that next one brings the status,
    the caller never gets any and waits for ever. So the coroutine is driven here and not by the task of the handler,
    at a quarter of what a task for each message costs.
    """

    __slots__ = ("_coroutine", "_waiters", "has_ended")

    def __init__(self, coroutine: Any) -> None:
        self.has_ended = False
        self._coroutine = coroutine
        self._waiters: list[asyncio.Future[None]] = []

    def begin(self) -> asyncio.Future[None]:
        """Hand the operation to the core; gives what its own waiter awaits. Raises what the core refuses."""
        outcome = self.waiter()
        self._step()
        return outcome

    def waiter(self) -> asyncio.Future[None]:
        """A future for the end: the first one gets the outcome, the others learn only that it has come."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def _step(self, _done: object = None) -> None:
        try:
            self._coroutine.send(None).add_done_callback(self._step)
        except StopIteration:
            self._end(None)
        except (Exception, asyncio.CancelledError) as err:  # noqa: BLE001 - handed to whoever waits
            self._end(err)

    def _end(self, error: BaseException | None) -> None:
        self.has_ended = True
        for waiter in self._waiters:
            if waiter.done():  # cancelled, and with it the interest in the outcome
                pass
            elif error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
            error = None


class CallIo:
    """gRPC's own context, which besides sends `ours` with the first answer and with the status.

    Not before the first answer: once initial metadata has left, a failure comes in trailers, and "gRPC status codes in
    trailers will not trigger retry logic":
    https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter

    Several tasks of a handler may write; their messages leave one after the other.
    """

    __slots__ = ("_inner", "_ours", "_running", "has_opened")

    def __init__(self, inner: Any, ours: Metadata) -> None:
        self.has_opened = False
        self._inner = inner
        self._ours = ours
        self._running: Operation | None = None
        inner.set_trailing_metadata(ours)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send the handler's metadata together with ours."""
        await self.settle()
        self.has_opened = True
        await self._run(self._inner.send_initial_metadata, (*initial_metadata, *self._ours))

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Set what is sent with the status, besides ours."""
        self._inner.set_trailing_metadata((*trailing_metadata, *self._ours))

    async def open(self) -> None:
        """Send ours, unless the handler has sent its own."""
        await self.settle()
        if not self.has_opened:
            await self.send_initial_metadata(())

    async def write(self, message: Any) -> None:
        """Send one message of a stream."""
        while self._running is None or not self._running.has_ended:
            await self.open()
        await self._run(self._inner.write, message)

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """End the call with a status; always raises."""
        await self.settle()
        # None given means what was set before, which has ours already.
        await self._inner.abort(code, details, (*trailing_metadata, *self._ours) if trailing_metadata else ())
        raise AssertionError("abort always raises")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a status; always raises."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    async def settle(self) -> None:
        """Return when the core works on nothing of this call, as it must be before the status is sent."""
        while self._running is not None and not self._running.has_ended:
            await self._running.waiter()

    async def _run(self, begin: Callable[[Any], Any], argument: Any) -> None:
        # The caller has just seen that nothing runs, and nothing can begin before this does: there is no await between.
        self._running = Operation(begin(argument))
        await self._running.begin()
