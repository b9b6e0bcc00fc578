"""What operators may ask for, and what they are told."""

import asyncio

import pytest

from agentmesh.rollout.v1 import canary_pb2, canary_service_pb2
from mesh.config.document import MeshDocument, Policy
from mesh.errors import FailedPrecondition, InvalidInput, NotFound
from mesh.runtime import open_background
from services.control_plane.canary.servicer import CanaryServicer

RUNNING, PROMOTED, ABORTED = (
    canary_pb2.CANARY_PHASE_RUNNING,
    canary_pb2.CANARY_PHASE_PROMOTED,
    canary_pb2.CANARY_PHASE_ABORTED,
)


@pytest.fixture
def draining():
    return asyncio.Event()


@pytest.fixture
def servicer(world, draining):
    return CanaryServicer(
        world.book,
        world.controller,
        world.store,
        author=lambda: "operator tester",
        draining=draining,
        now=world.clock.now,
    )


async def start(servicer, **changes):
    plan = canary_pb2.CanaryPlan(**({"service": "echo", "stable": "v1", "candidate": "v2"} | changes))
    return (await servicer.StartCanary(canary_service_pb2.StartCanaryRequest(plan=plan), None)).canary


async def test_a_canary_starts_with_the_defaults(servicer):
    canary = await start(servicer)
    assert (list(canary.plan.steps), canary.plan.interval.seconds) == ([5, 25, 50, 100], 30)
    assert (canary.plan.max_error_percent, canary.plan.min_requests) == (1.0, 50)
    assert (canary.phase, canary.author, canary.steps[0].percent) == (RUNNING, "operator tester", 5)


async def test_a_bound_of_no_errors_is_not_the_default(servicer):
    assert (await start(servicer, max_error_percent=0.0)).plan.max_error_percent == 0.0


async def test_a_ratio_measures_the_stable_version_first(servicer):
    assert (await start(servicer, max_p99_ratio=1.5)).steps[0].percent == 0


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"service": "nobody"}, NotFound, "UNKNOWN_SERVICE"),
        ({"candidate": "v3"}, NotFound, "UNKNOWN_SUBSET"),
        ({"candidate": "v1"}, InvalidInput, "INVALID_INPUT"),
        ({"steps": [50]}, InvalidInput, "INVALID_INPUT"),
    ],
)
async def test_what_cannot_start_is_refused(servicer, changes, error, reason):
    with pytest.raises(error) as caught:
        await start(servicer, **changes)
    assert caught.value.reason == reason
    assert caught.value.fix


async def test_a_subset_without_instances_is_refused(servicer, world):
    world.run("1", "2", ill=("2",))
    with pytest.raises(FailedPrecondition, match="echo/v2 is healthy") as caught:
        await start(servicer)
    assert caught.value.reason == "NO_HEALTHY_INSTANCE"


async def test_a_split_that_goes_elsewhere_is_refused(servicer, world):
    plain = world.store.current.policy.document.model_dump(exclude_unset=True)
    plain["services"]["echo"]["split"] = {"echo/v1": 50, "echo/v2": 50}
    world.store.set_policy(Policy(MeshDocument.model_validate(plain)))
    with pytest.raises(FailedPrecondition, match="sends requests to echo/v2"):
        await start(servicer)


async def test_a_second_canary_of_a_service_is_refused(servicer):
    await start(servicer)
    with pytest.raises(FailedPrecondition, match="runs already"):
        await start(servicer)


@pytest.mark.parametrize(("verb", "phase", "share"), [("Promote", PROMOTED, 100), ("Abort", ABORTED, 0)])
async def test_an_operator_ends_a_canary_and_is_told_when_it_is_in_force(servicer, world, verb, phase, share):
    await world.start()
    request = getattr(canary_service_pb2, f"{verb}CanaryRequest")(service="echo")
    async with open_background(world.controller.run()):
        canary = (await getattr(servicer, f"{verb}Canary")(request, None)).canary
    assert canary.phase == phase
    assert "operator tester" in canary.cause
    assert world.split["echo/v2"] == share


async def test_what_does_not_run_cannot_be_ended(servicer):
    with pytest.raises(FailedPrecondition, match="No canary of echo runs"):
        await servicer.AbortCanary(canary_service_pb2.AbortCanaryRequest(service="echo"), None)
    with pytest.raises(NotFound):
        await servicer.GetCanary(canary_service_pb2.GetCanaryRequest(service="echo"), None)


async def test_the_figures_of_a_running_canary_are_told(servicer, world):
    await world.start()
    await world.pass_time(1, ok=5, took=7)
    canary = (await servicer.GetCanary(canary_service_pb2.GetCanaryRequest(service="echo"), None)).canary
    (step,) = canary.steps
    assert (step.candidate.requests, step.candidate.failed, step.candidate.p99.nanos) == (5, 0, 7_000_000)
    assert canary.waiting_for == "5 of 10 requests to v2"
    (listed,) = (await servicer.ListCanaries(canary_service_pb2.ListCanariesRequest(), None)).canaries
    assert listed == canary


async def test_a_watch_ends_with_the_canary(servicer, world):
    await world.start()
    phases = []
    async with asyncio.timeout(10), open_background(world.controller.run()):
        async for response in servicer.WatchCanary(canary_service_pb2.WatchCanaryRequest(service="echo"), None):
            phases.append(response.canary.phase)
            if len(phases) == 1:
                await servicer.AbortCanary(canary_service_pb2.AbortCanaryRequest(service="echo"), None)
    assert phases[0] == RUNNING and phases[-1] == ABORTED


async def test_a_watch_ends_when_the_server_drains(servicer, world, draining):
    await world.start()
    draining.set()
    async with asyncio.timeout(5):
        async for _ in servicer.WatchCanary(canary_service_pb2.WatchCanaryRequest(service="echo"), None):
            pass
    assert (await world.canary()).is_running
