"""A canary from its start to its end, with what may come in between."""

from dataclasses import replace

from mesh.errors import FailedPrecondition, InvalidInput, Unavailable
from services.control_plane.canary.ports import Fate, News
from services.control_plane.canary.record import Phase, with_end

BACK = {"echo/v1": 100, "echo/v2": 0}


async def test_a_good_version_goes_through_all_steps_and_is_promoted(world):
    await world.start(steps=(10, 50, 100))
    shares = []
    for _ in range(3):
        shares.append(world.split["echo/v2"])
        await world.pass_time(11, ok=100)
    canary = await world.canary()
    assert shares == [10, 50, 100]
    assert (canary.phase, canary.cause) == (Phase.PROMOTED, "Every step did well.")
    assert world.split == {"echo/v1": 0, "echo/v2": 100}
    assert [(step.percent, step.revision, step.candidate.requests) for step in canary.steps] == [
        (10, 1, 100),
        (50, 2, 100),
        (100, 3, 100),
    ]
    assert world.document.messages[0] == "10 % of echo to v2"


async def test_a_version_that_fails_gives_all_requests_back(world):
    await world.start()
    await world.pass_time(1, ok=10, errors=10)
    canary = await world.canary()
    assert canary.phase is Phase.ABORTED
    assert canary.cause == "10 of 20 requests to v2 failed (50.0 %), more than 1 %"
    assert world.split == BACK
    assert canary.steps[0].candidate.failed == 10
    assert canary.steps[-1].percent == 0 and canary.steps[-1].revision == 2


async def test_a_slow_version_gives_all_requests_back(world):
    await world.start(max_p99=50.0)
    await world.pass_time(1, ok=30, took=80)
    assert (await world.canary()).cause == "p99 of v2 is 80 ms, more than 50 ms"
    assert world.split == BACK


async def test_a_ratio_waits_until_the_stable_version_is_known(world):
    await world.start(max_p99_ratio=2.0)
    assert world.split == BACK
    await world.pass_time(1, stable_ok=5)
    assert world.split == BACK
    await world.pass_time(1, stable_ok=10, stable_took=20)
    assert world.split["echo/v2"] == 10
    await world.pass_time(1, ok=30, took=45, stable_took=20)
    assert (await world.canary()).cause == "p99 of v2 is 45 ms, more than 2 times the 20 ms of v1"


async def test_the_last_step_is_compared_with_what_the_stable_version_did_before(world):
    await world.start(max_p99_ratio=2.0, steps=(100,))
    await world.pass_time(1, stable_ok=20, stable_took=20)
    await world.pass_time(1, ok=30, took=90, stable_ok=0)
    assert (await world.canary()).phase is Phase.ABORTED


async def test_a_step_without_requests_is_not_passed(world):
    await world.start()
    await world.pass_time(1000, ok=9)
    assert world.split["echo/v2"] == 10
    assert world.controller.watched("echo").waiting_for == "9 of 10 requests to v2"
    await world.pass_time(1, ok=1)
    assert world.split["echo/v2"] == 100


async def test_each_step_is_judged_by_its_own_requests(world):
    await world.start(max_error_percent=5.0)
    await world.pass_time(11, ok=970, errors=30)
    assert world.split["echo/v2"] == 100
    await world.pass_time(1, ok=90, errors=10)
    assert (await world.canary()).phase is Phase.ABORTED


async def test_a_new_process_takes_the_step_up_again(world):
    await world.start()
    await world.pass_time(5, ok=100)
    world.start_control_plane()
    await world.pass_time(6, ok=100)
    assert world.split["echo/v2"] == 10, "the interval begins anew"
    await world.pass_time(11, ok=100)
    assert world.split["echo/v2"] == 100
    assert world.document.revision == 2


async def test_a_process_that_dies_between_revision_and_record_does_not_end_the_canary(world):
    await world.start()
    # The record lost what the revision was.
    await world.book.change("echo", lambda it: replace(it, steps=(replace(it.step, revision=0),)))
    world.start_control_plane()
    for _ in range(3):
        await world.pass_time(11, ok=100)
    canary = await world.canary()
    assert canary.phase is Phase.PROMOTED
    assert [step.revision for step in canary.steps] == [1, 2]


async def test_what_does_not_lead_looks_on(world):
    world.is_leader = False
    await world.start()
    assert world.split == {}
    assert world.reports.order_for("caller/1").clusters == ()
    world.is_leader = True
    await world.look(3)
    assert world.split["echo/v2"] == 10
    world.is_leader = False
    await world.look()
    assert world.reports.order_for("caller/1").clusters == ()


async def test_only_a_running_canary_costs_load_reports(world):
    assert world.reports.order_for("caller/1").clusters == ()
    await world.start()
    assert world.reports.order_for("caller/1").clusters == ("v1.echo", "v2.echo")
    await world.pass_time(1, errors=20)
    await world.look()
    assert world.reports.order_for("caller/1").clusters == ()


async def test_an_operator_who_changes_the_split_ends_the_canary_and_keeps_the_split(world):
    await world.start()
    world.document.put_in_force("echo", {"echo/v1": 70, "echo/v2": 30})
    world.document.news = News(Fate.REPLACED, "Revision 7 by operator root")
    await world.look(3)
    canary = await world.canary()
    assert canary.phase is Phase.ABORTED
    assert canary.cause == "Revision 7 by operator root changed the split of echo, which is left as it is."
    assert world.split == {"echo/v1": 70, "echo/v2": 30}


async def test_a_revision_that_proxies_refused_gives_all_requests_back(world):
    await world.start(steps=(10, 50, 100))
    await world.pass_time(11, ok=100)
    # The second step is undone: the first one is in force again.
    world.document.put_in_force("echo", {"echo/v1": 90, "echo/v2": 10})
    world.document.news = News(Fate.UNDONE, "Revision 2 was undone: envoy said no.")
    await world.look(4)
    canary = await world.canary()
    assert (canary.phase, canary.cause) == (Phase.ABORTED, "Revision 2 was undone: envoy said no.")
    assert world.split == BACK


async def test_a_staged_revision_is_waited_for(world):
    world.document.is_staging, world.document.news = True, News(Fate.COMING)
    await world.start()
    world.clock.time += 100
    await world.look()
    assert (await world.canary()).is_running
    world.document.put_in_force("echo", {"echo/v1": 90, "echo/v2": 10})
    await world.pass_time(1, ok=100)
    assert world.split["echo/v2"] == 10, "the step begins when it is in force"
    world.document.is_staging = False
    await world.pass_time(11, ok=100)
    assert world.split["echo/v2"] == 100


async def test_a_document_that_cannot_be_reached_is_tried_again(world):
    world.document.error = Unavailable("Consul is away.")
    await world.start()
    assert world.controller.watched("echo").waiting_for == "Consul is away."
    world.document.error = None
    world.clock.time += 10
    await world.look()
    assert world.split["echo/v2"] == 10


async def test_a_step_that_proxies_refuse_ends_the_canary(world):
    world.document.error = FailedPrecondition("Revision 1 was undone: no.", reason="CHANGE_UNDONE")
    await world.start()
    assert (await world.canary()).ending is Phase.ABORTED
    world.document.error = None
    world.clock.time += 10
    await world.look(3)
    canary = await world.canary()
    assert (canary.phase, canary.cause) == (Phase.ABORTED, "Revision 1 was undone: no.")
    assert world.split == BACK


async def test_a_document_in_which_there_can_be_no_split_ends_the_canary_as_it_is(world):
    world.document.error = InvalidInput("There is no subset v2.")
    await world.start()
    canary = await world.canary()
    assert (canary.phase, canary.cause) == (
        Phase.ABORTED,
        "There is no subset v2. The split is left as it is.",
    )
    assert world.split == {}


async def test_somebody_elses_staged_change_is_waited_for(world):
    world.document.error = FailedPrecondition("Revision 3 is staged.", reason="REVISION_STAGED")
    await world.start()
    assert (await world.canary()).is_running
    assert world.controller.watched("echo").waiting_for == "Revision 3 is staged."


async def test_a_candidate_without_healthy_instances_is_given_up(world):
    await world.start()
    world.run("1", "2", ill=("2",))
    await world.look(4)
    assert (await world.canary()).cause == "no instance of v2 is healthy"
    assert world.split == BACK


async def test_a_registry_that_knows_nothing_yet_ends_no_canary(world):
    await world.start()
    world.store.set_services({})
    await world.look(3)
    assert (await world.canary()).is_running


async def test_an_order_to_end_comes_before_everything_else(world):
    await world.start()
    await world.book.change("echo", lambda it: with_end(it, Phase.PROMOTED, "by hand", world.clock.now()))
    await world.look(3)
    canary = await world.canary()
    assert (canary.phase, canary.cause) == (Phase.PROMOTED, "by hand")
    assert world.split["echo/v2"] == 100


async def test_books_that_others_write_are_read_again(world):
    world.keys.lost_races = 2
    await world.start()
    assert (await world.canary()).step.revision == 1
