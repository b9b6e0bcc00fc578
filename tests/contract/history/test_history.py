"""What a history of the mesh document promises, wherever it is kept."""

import asyncio

import pytest

from mesh.config.history import Head, Origin, Refusal, RevisionStore, Status
from mesh.errors import FailedPrecondition, NotFound


async def test_a_new_history_is_empty(history: RevisionStore) -> None:
    assert await history.head() == Head()
    assert await history.list() == ()
    assert await history.read_operator_layer() == ""


async def test_a_revision_comes_back_as_it_was(history: RevisionStore, open_keys, draft) -> None:
    made = await history.append(draft("a: ü\n"), newest=0)
    again = RevisionStore(open_keys())
    assert await again.get(1) == made
    head = await again.head()
    assert (head.newest, head.active, head.good, head.staged) == (1, 1, 1, 0)
    assert head.status_of(made) is Status.ACTIVE
    assert await again.read_operator_layer() == "a: ü\n"


async def test_a_later_revision_takes_the_place_of_an_earlier_one(history: RevisionStore, draft) -> None:
    first = await history.append(draft("1"), newest=0)
    await history.append(draft("2"), newest=1)
    head = await history.head()
    assert (head.active, head.good) == (2, 1)
    assert head.status_of(first) is Status.SUPERSEDED
    assert [revision.number for revision in await history.list()] == [2, 1]
    assert [revision.number for revision in await history.list(before=2)] == [1]


async def test_of_two_that_know_the_same_newest_revision_one_wins(history: RevisionStore, open_keys, draft) -> None:
    await history.append(draft("1"), newest=0)
    stores = [RevisionStore(open_keys()) for _ in range(4)]
    answers = await asyncio.gather(
        *(store.append(draft(f"mine {number}"), newest=1) for number, store in enumerate(stores)),
        return_exceptions=True,
    )
    won = [answer for answer in answers if not isinstance(answer, BaseException)]
    lost = [answer for answer in answers if isinstance(answer, FailedPrecondition)]
    assert (len(won), len(lost)) == (1, 3)
    assert {error.reason for error in lost} == {"STALE_REVISION"}
    # The content is that of the winner, not of the last who wrote.
    assert await history.get(2) == won[0]
    assert await history.read_operator_layer() == won[0].draft.layers[1].text


async def test_a_stale_author_changes_nothing(history: RevisionStore, draft) -> None:
    await history.append(draft("1"), newest=0)
    with pytest.raises(FailedPrecondition, match="newest revision is 1, not 0"):
        await history.append(draft("2"), newest=0)
    assert (await history.head()).newest == 1
    assert await history.read_operator_layer() == "1"


async def test_an_undone_revision_says_why_and_the_one_before_is_in_force(history: RevisionStore, draft) -> None:
    await history.append(draft("1"), newest=0)
    await history.append(draft("2"), newest=1)
    refusal = Refusal("a/a-1", "route", ("outbound",), "no", Origin("m.yaml", 3, "services.a", "no"))
    head = await history.undo(2, to=1, cause="a/a-1 refuses it.", refusals=(refusal,))
    assert (head.newest, head.active) == (2, 1)
    found = await history.get(2)
    assert (head.status_of(found), found.cause, found.refusals) == (
        Status.ROLLED_BACK,
        "a/a-1 refuses it.",
        (refusal,),
    )
    assert await history.read_operator_layer() == "1"


async def test_undoing_one_undoes_what_was_made_upon_it(history: RevisionStore, draft) -> None:
    for number in range(3):
        await history.append(draft(str(number)), newest=number)
    head = await history.undo(2, to=1, cause="bad")
    assert (head.newest, head.active) == (3, 1)
    assert "revision 2" in (await history.get(3)).cause
    assert head.status_of(await history.get(3)) is Status.ROLLED_BACK


async def test_undoing_twice_keeps_the_first_cause(history: RevisionStore, draft) -> None:
    await history.append(draft("1"), newest=0)
    await history.append(draft("2"), newest=1)
    await history.undo(2, to=1, cause="first")
    await history.undo(2, to=1, cause="second")
    assert (await history.get(2)).cause == "first"


async def test_numbers_go_on_after_an_undone_revision(history: RevisionStore, draft) -> None:
    await history.append(draft("1"), newest=0)
    await history.append(draft("2"), newest=1)
    await history.undo(2, to=1, cause="bad")
    await history.append(draft("3"), newest=2)
    head = await history.head()
    assert (head.newest, head.active) == (3, 3)
    assert head.status_of(await history.get(2)) is Status.ROLLED_BACK


async def test_a_staged_revision_is_in_force_once_it_is_promoted(history: RevisionStore, draft) -> None:
    await history.append(draft("1"), newest=0)
    staged = await history.append(draft("2"), newest=1, staged=True)
    head = await history.head()
    assert (head.active, head.staged, head.status_of(staged)) == (1, 2, Status.STAGED)
    with pytest.raises(FailedPrecondition, match="staged"):
        await history.append(draft("3"), newest=2)
    head = await history.promote(2)
    assert (head.active, head.staged, head.status_of(staged)) == (2, 0, Status.ACTIVE)
    with pytest.raises(FailedPrecondition):
        await history.promote(2)


async def test_an_undone_staged_revision_is_not_promoted(history: RevisionStore, draft) -> None:
    await history.append(draft("1"), newest=0)
    await history.append(draft("2"), newest=1, staged=True)
    head = await history.undo(2, to=1, cause="errors")
    assert (head.active, head.staged) == (1, 0)
    with pytest.raises(FailedPrecondition):
        await history.promote(2)


async def test_an_operator_layer_that_was_edited_by_hand_is_left_alone(history: RevisionStore, keys, draft) -> None:
    await history.append(draft("1"), newest=0)
    await history.append(draft("2"), newest=1)
    await keys.put("document", b"by hand")
    await history.undo(2, to=1, cause="bad")
    assert await history.read_operator_layer() == "by hand"
    await history.settle()
    assert await history.read_operator_layer() == "by hand"


async def test_what_a_killed_process_left_beyond_the_head_is_replaced(history: RevisionStore, keys, draft) -> None:
    await history.append(draft("1"), newest=0)
    await keys.put("revisions/2", b"half")
    with pytest.raises(NotFound):
        await history.get(2)
    made = await history.append(draft("2"), newest=1)
    assert await history.get(2) == made


async def test_an_operator_layer_that_a_killed_process_did_not_write_is_written(
    history: RevisionStore, keys, draft
) -> None:
    await history.append(draft("1"), newest=0)
    await history.append(draft("2"), newest=1)
    # As it was when the head had been written and the process was killed.
    await keys.put("document", b"1")
    await history.settle()
    assert await history.read_operator_layer() == "2"


async def test_old_revisions_are_forgotten(open_keys, draft) -> None:
    history = RevisionStore(open_keys(), most=3)
    for number in range(5):
        await history.append(draft(str(number)), newest=number)
    assert [revision.number for revision in await history.list()] == [5, 4, 3]
    with pytest.raises(NotFound, match="newest is 5"):
        await history.get(2)


async def test_a_probation_that_has_passed_is_noted_once(history: RevisionStore, draft) -> None:
    await history.append(draft("1"), newest=0)
    await history.append(draft("2"), newest=1)
    assert (await history.confirm(2)).good == 2
    assert (await history.confirm(1)).good == 2


async def test_a_watcher_hears_of_changes_by_others(history: RevisionStore, open_keys, draft, within) -> None:
    heads = aiter(RevisionStore(open_keys()).watch())
    assert (await within(anext(heads))).newest == 0
    await history.append(draft("1"), newest=0)
    head = await within(anext(heads))
    while head.newest != 1:
        head = await within(anext(heads))


async def test_garbage_is_named(history: RevisionStore, keys, draft) -> None:
    await history.append(draft("1"), newest=0)
    await keys.put("revisions/1", b"garbage")
    with pytest.raises(FailedPrecondition, match="revisions/1"):
        await history.get(1)
    await keys.put("active", b"[]")
    with pytest.raises(FailedPrecondition, match="active"):
        await history.head()


async def test_many_revisions_at_a_time_are_told_in_order(history: RevisionStore, draft) -> None:
    for number in range(6):
        await history.append(draft(str(number)), newest=number)
    pages, before = [], 0
    while page := await history.list(before=before, count=2):
        pages.append([revision.number for revision in page])
        before = page[-1].number
    assert pages == [[6, 5], [4, 3], [2, 1]]


async def test_a_head_that_another_changed_meanwhile_is_not_overwritten(
    history: RevisionStore, open_keys, draft
) -> None:
    await history.append(draft("1"), newest=0)
    await history.append(draft("2"), newest=1)
    await asyncio.gather(*(RevisionStore(open_keys()).confirm(2) for _ in range(3)), history.undo(2, to=1, cause="bad"))
    head = await history.head()
    assert (head.newest, head.active) == (2, 1)


async def test_an_undoing_that_a_killed_process_began_is_finished(history: RevisionStore, keys, draft) -> None:
    for number in range(3):
        await history.append(draft(str(number)), newest=number)
    await history.confirm(2)
    before = await keys.get("active")
    await history.undo(3, to=2, cause="bad")
    # As it was when the cause had been written and the process was killed.
    await keys.put("active", before.value)
    await keys.put("document", b"2")
    await history.settle()
    head = await history.head()
    assert (head.newest, head.active) == (3, 2)
    assert await history.read_operator_layer() == "1"
