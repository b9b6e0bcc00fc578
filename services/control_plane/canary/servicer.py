"""CanaryService: what operators ask of canaries."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import datetime

import grpc

from agentmesh.rollout.v1 import canary_pb2, canary_service_pb2, canary_service_pb2_grpc
from mesh.errors import DeadlineExceeded, FailedPrecondition, InvalidInput, NotFound
from mesh.model import check_service_name
from mesh.state import StateStore
from mesh.telemetry import get_logger
from mesh.xds.blueprint import select
from services.control_plane.canary.book import CanaryBook
from services.control_plane.canary.codec import canary_to_proto, plan_from_proto
from services.control_plane.canary.controller import CanaryController, utc_now
from services.control_plane.canary.plan import Plan
from services.control_plane.canary.record import Canary, Phase, Step, with_end, with_figures

_LONGEST_REASON = 1000
_END_SECONDS = 20.0
_FIGURES_SECONDS = 1.0

_log = get_logger(__name__)


class CanaryServicer(canary_service_pb2_grpc.CanaryServiceServicer):
    """Writes what is asked for into the book, where the leader's controller finds it. `author` tells who calls."""

    def __init__(
        self,
        book: CanaryBook,
        controller: CanaryController,
        store: StateStore,
        *,
        author: Callable[[], str],
        draining: asyncio.Event,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._book = book
        self._controller = controller
        self._store = store
        self._author = author
        self._draining = draining
        self._now = now

    async def StartCanary(
        self, request: canary_service_pb2.StartCanaryRequest, context: grpc.ServicerContext
    ) -> canary_service_pb2.StartCanaryResponse:
        author, plan = self._author(), plan_from_proto(request.plan)
        self._check_possible(plan)
        now = self._now()
        # What is compared with the stable subset needs to know it first.
        percent = plan.steps[0] if plan.max_p99_ratio is None else 0
        canary = Canary(plan, author, now, (Step(percent, now),))
        await self._book.start(canary)
        _log.info("canary_started", service_name=plan.service, candidate=plan.candidate, author=author)
        return canary_service_pb2.StartCanaryResponse(canary=self._to_proto(canary))

    def _check_possible(self, plan: Plan) -> None:
        """Raise when the service, its subsets, its split or its instances do not allow the canary."""
        state = self._store.current
        policy = state.policy.of(plan.service)
        if plan.service not in state.names:
            raise NotFound(
                f"There is no service {plan.service!r}.",
                reason="UNKNOWN_SERVICE",
                field="plan.service",
                fix="See `meshctl status`.",
            )
        for field, subset in (("plan.stable", plan.stable), ("plan.candidate", plan.candidate)):
            if subset not in policy.subsets:
                known = ", ".join(sorted(policy.subsets)) or "none"
                raise NotFound(
                    f"{plan.service} has no subset {subset!r}; there are: {known}.",
                    reason="UNKNOWN_SUBSET",
                    field=field,
                    fix=f'Apply a document with services.{plan.service}.subsets.{subset}: {{version: "..."}}.',
                )
            instances = select(policy, f"{plan.service}/{subset}", state.services.get(plan.service, ()))
            if not any(instance.is_healthy for instance in instances):
                raise FailedPrecondition(
                    f"No instance of {plan.service}/{subset} is healthy.",
                    reason="NO_HEALTHY_INSTANCE",
                    field=field,
                    fix=f"Start one, for example `meshctl run service {plan.service} --version VERSION -- COMMAND`.",
                )
        elsewhere = {target for target, weight in policy.split.items() if weight} - {f"{plan.service}/{plan.stable}"}
        if elsewhere:
            raise FailedPrecondition(
                f"The split of {plan.service} sends requests to {', '.join(sorted(elsewhere))}.",
                reason="SPLIT_IN_USE",
                field="plan.stable",
                fix=f"Apply a document in which {plan.service}/{plan.stable} gets all of them, or name another subset.",
            )

    async def PromoteCanary(
        self, request: canary_service_pb2.PromoteCanaryRequest, context: grpc.ServicerContext
    ) -> canary_service_pb2.PromoteCanaryResponse:
        cause = f"Promoted by {self._author()}."
        return canary_service_pb2.PromoteCanaryResponse(canary=await self._end(request.service, Phase.PROMOTED, cause))

    async def AbortCanary(
        self, request: canary_service_pb2.AbortCanaryRequest, context: grpc.ServicerContext
    ) -> canary_service_pb2.AbortCanaryResponse:
        if len(request.reason) > _LONGEST_REASON:
            raise InvalidInput(f"The reason has more than {_LONGEST_REASON} characters.", field="reason")
        cause = f"Aborted by {self._author()}{': ' + request.reason if request.reason else ''}."
        return canary_service_pb2.AbortCanaryResponse(canary=await self._end(request.service, Phase.ABORTED, cause))

    async def _end(self, service: str, ending: Phase, cause: str) -> canary_pb2.Canary:
        """Order the end, and wait until it has come."""
        check_service_name(service)

        def order(known: Canary) -> Canary:
            if (watched := self._controller.watched(service)) is not None:
                known = with_figures(known, watched.candidate, watched.stable)
            return with_end(known, ending, cause, self._now())

        ordered = await self._book.change(service, order)
        _log.info("canary_ending", service_name=service, ending=ending.value, cause=cause)
        try:
            async with asyncio.timeout(_END_SECONDS), contextlib.aclosing(self._changes()) as changes:
                async for _ in changes:
                    canary = await self._book.newest(service)
                    if not canary.is_running or canary.start_time != ordered.start_time:
                        return self._to_proto(canary)
        except TimeoutError as err:
            raise DeadlineExceeded(
                f"The end of the canary of {service} is not in force after {_END_SECONDS:g} s; it is still tried.",
                fix=f"See `meshctl canary status {service}`.",
            ) from err
        raise AssertionError("changes do not end")

    async def GetCanary(
        self, request: canary_service_pb2.GetCanaryRequest, context: grpc.ServicerContext
    ) -> canary_service_pb2.GetCanaryResponse:
        self._author()
        check_service_name(request.service)
        return canary_service_pb2.GetCanaryResponse(canary=self._to_proto(await self._book.newest(request.service)))

    async def ListCanaries(
        self, request: canary_service_pb2.ListCanariesRequest, context: grpc.ServicerContext
    ) -> canary_service_pb2.ListCanariesResponse:
        self._author()
        return canary_service_pb2.ListCanariesResponse(
            canaries=[self._to_proto(canary) for canary in await self._book.read()]
        )

    async def WatchCanary(
        self, request: canary_service_pb2.WatchCanaryRequest, context: grpc.ServicerContext
    ) -> AsyncIterator[canary_service_pb2.WatchCanaryResponse]:
        self._author()
        check_service_name(request.service)
        seen: canary_pb2.Canary | None = None
        async with contextlib.aclosing(self._changes()) as changes:
            async for _ in changes:
                canary = await self._book.newest(request.service)
                found = self._to_proto(canary)
                if found != seen:
                    seen = found
                    yield canary_service_pb2.WatchCanaryResponse(canary=found)
                if not canary.is_running or self._draining.is_set():
                    return

    async def _changes(self) -> AsyncGenerator[None, None]:
        """Give at once, after every change of the book, and once a second: figures change, too. For ever."""
        changed = asyncio.Event()

        async def follow() -> None:
            async for _ in self._book.watch():
                changed.set()

        following = asyncio.ensure_future(follow())
        draining = asyncio.ensure_future(self._draining.wait())
        draining.add_done_callback(lambda _: changed.set())
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_FIGURES_SECONDS):
                        await changed.wait()
                changed.clear()
                if following.done():
                    following.result()
                yield None
        finally:
            following.cancel()
            draining.cancel()
            await asyncio.gather(following, draining, return_exceptions=True)

    def _to_proto(self, canary: Canary) -> canary_pb2.Canary:
        watched = self._controller.watched(canary.plan.service)
        if watched is None or not canary.is_running:
            return canary_to_proto(canary)
        if watched.step == len(canary.steps):
            canary = with_figures(canary, watched.candidate, watched.stable)
        return canary_to_proto(canary, waiting_for=watched.waiting_for)
