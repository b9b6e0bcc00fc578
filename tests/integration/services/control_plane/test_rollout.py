"""A change of the document reaches real Envoys, or is undone for all of them, with the line that was at fault."""

import asyncio
import os
import stat
import time

import grpc
import pytest

from agentmesh.config.v1 import config_pb2, config_service_pb2

GOOD = "services:\n  echo:\n    timeout: 7.5s\n"
# The model takes it, and so does RE2; an Envoy refuses it for its size. The other service's change is a good one.
REFUSED = """\
services:
  other:
    timeout: 9.25s
  echo:
    routes:
      - name: long
        match:
          path:
            regex: '((((a{100}){10})){1})'
"""
ACTIVE, ROLLED_BACK = config_pb2.REVISION_STATUS_ACTIVE, config_pb2.REVISION_STATUS_ROLLED_BACK
STAGED, SUPERSEDED = config_pb2.REVISION_STATUS_STAGED, config_pb2.REVISION_STATUS_SUPERSEDED


async def test_a_good_change_is_with_every_envoy_when_apply_answers(plane):
    answer = await plane.apply(GOOD, message="faster")
    assert (answer.revision.number, answer.revision.status) == (2, ACTIVE)
    assert (answer.proxies_acked, list(answer.proxies_waiting)) == (2, [])
    assert await plane.all_have('"7.500s"')
    assert answer.revision.author.startswith("operator ")
    assert [line["decision"] for line in plane.audit] == ["active", "active"]
    assert stat.S_IMODE((plane.settings.state_dir / "audit.jsonl").stat().st_mode) == 0o600


async def test_a_document_with_faults_changes_nothing_and_tells_all_of_them(plane):
    bad = "services:\n  echo:\n    timeout: fast\n    retry:\n      attemps: 3\n"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await plane.apply(bad)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for place in ("mine.yaml, line 3", "mine.yaml, line 5", "attempts"):
        assert place in caught.value.details()
    assert len(await plane.history()) == 1
    assert plane.audit[-1]["decision"] == "refused"


async def test_what_an_envoy_refuses_is_undone_for_all_with_its_line(plane, eventually):
    await plane.apply(GOOD)
    started = time.monotonic()
    answer = await plane.apply(REFUSED)
    assert time.monotonic() - started < 3
    revision = answer.revision
    assert (revision.number, revision.status) == (3, ROLLED_BACK)
    (refusal, *_) = revision.refusals
    assert (refusal.type, list(refusal.resources)) == ("route", ["outbound"])
    assert "RE2 program size" in refusal.message
    assert (refusal.origin.source, refusal.origin.line) == ("mine.yaml", 9)
    assert refusal.origin.field == "services.echo.routes.long.match.path.regex"
    assert "mine.yaml, line 9" in revision.cause
    # Nothing of the change lingers, not even what was good in it.

    async def is_as_before():
        return await plane.all_have('"7.500s"') and await plane.none_has('"9.250s"')

    await eventually(is_as_before)
    assert [found.status for found in await plane.history()] == [ROLLED_BACK, ACTIVE, SUPERSEDED]
    assert (plane.audit[-1]["action"], plane.audit[-1]["decision"]) == ("undo", "rolled-back")
    assert plane.store.current.policy.revision == 2


async def test_what_was_refused_is_refused_at_once_when_it_is_applied_again(plane):
    await plane.apply(REFUSED)
    with pytest.raises(grpc.aio.AioRpcError, match="has refused this route") as caught:
        await plane.apply(REFUSED)
    assert "mine.yaml, line 9" in caught.value.details()
    assert (await plane.history())[0].number == 2


async def test_after_an_undone_change_the_next_good_one_goes_through(plane):
    await plane.apply(REFUSED)
    answer = await plane.apply(GOOD)
    assert (answer.revision.number, answer.revision.status, answer.proxies_acked) == (3, ACTIVE, 2)
    assert await plane.all_have('"7.500s"')


async def test_of_concurrent_applies_with_the_same_expectation_one_wins(plane):
    texts = [f"services:\n  echo:\n    timeout: {number}.5s\n" for number in range(1, 5)]
    answers = await asyncio.gather(*(plane.apply(text, expected_revision=1) for text in texts), return_exceptions=True)
    won = [answer for answer in answers if not isinstance(answer, Exception)]
    lost = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert (len(won), len(lost)) == (1, 3)
    assert {error.code() for error in lost} == {grpc.StatusCode.FAILED_PRECONDITION}
    assert await plane.all_have(f'"{answers.index(won[0]) + 1}.500s"')
    assert len(await plane.history()) == 2


async def test_rollback_restores_what_was_in_force_before(plane):
    await plane.apply(GOOD)
    await plane.apply("services:\n  echo:\n    timeout: 8.5s\n")
    request = config_service_pb2.RollbackDocumentRequest(message="slow")
    answer = await plane.config.RollbackDocument(request, timeout=20)
    assert (answer.revision.number, answer.revision.restores, answer.revision.status) == (4, 2, ACTIVE)
    assert await plane.all_have('"7.500s"')
    document = await plane.config.GetDocument(config_service_pb2.GetDocumentRequest(with_origins=True), timeout=5)
    (origin,) = (origin for origin in document.origins if origin.field == "services.echo.timeout")
    assert (origin.source, origin.line) == ("mine.yaml", 3)


async def test_a_plan_tells_documents_and_resources_and_changes_nothing(plane):
    request = config_service_pb2.PlanDocumentRequest(document=GOOD, source="mine.yaml", with_resources=True)
    plan = await plane.config.PlanDocument(request, timeout=10)
    assert [(change.field, change.after) for change in plan.changes] == [("services.echo.timeout", '"7500ms"')]
    assert {(change.node_id, change.type, change.name) for change in plan.resources} == {
        ("caller/caller-1", "route", "outbound"),
        ("caller/caller-2", "route", "outbound"),
    }
    assert all("7.500s" in change.after and "7.500s" not in change.before for change in plan.resources)
    assert len(await plane.history()) == 1


async def test_a_plan_remarks_policy_for_a_service_that_there_is_not(plane):
    request = config_service_pb2.PlanDocumentRequest(document="services: {ecko: {timeout: 1s}}", source="mine.yaml")
    (remark,) = (await plane.config.PlanDocument(request, timeout=10)).remarks
    assert (remark.source, remark.line, remark.field) == ("mine.yaml", 1, "services.ecko")
    assert "did you mean echo?" in remark.reason


async def test_secrets_are_masked_in_plans_and_resources(plane, monkeypatch):
    monkeypatch.setenv("ECHO_PASSWORD", "correct horse")
    text = (
        "services:\n  echo:\n    routes:\n      - name: r\n"
        "        headers: {request: {set: {x-password: {secret: 'env:ECHO_PASSWORD'}}}}\n"
    )
    request = config_service_pb2.PlanDocumentRequest(document=text, with_resources=True)
    plan = await plane.config.PlanDocument(request, timeout=10)
    await plane.apply(text)
    assert await plane.all_have("correct horse")
    listed = await plane.config.ListProxyResources(
        config_service_pb2.ListProxyResourcesRequest(node_id="caller/caller-1"), timeout=5
    )
    document = await plane.config.GetDocument(config_service_pb2.GetDocumentRequest(with_origins=True), timeout=5)
    for answer in (plan, listed, document):
        assert "correct horse" not in str(answer)
    assert "***" in str(listed)
    for path in plane.settings.state_dir.rglob("*"):
        assert path.is_dir() or path.is_socket() or b"correct horse" not in path.read_bytes()


async def test_a_changed_file_becomes_a_revision_and_a_bad_one_is_left_out_until_it_changes(plane, eventually):
    path = plane.layers / "dev.yaml"
    path.write_text("services:\n  echo:\n    timeout: 3.5s\n")
    await eventually(lambda: plane.all_have('"3.500s"'))
    (newest, *_) = await plane.history()
    assert (newest.number, newest.author) == (2, str(path))

    path.write_text("services:\n  echo:\n    timeout: soon\n")

    async def refused():
        answer = await plane.config.GetDocument(config_service_pb2.GetDocumentRequest(), timeout=5)
        return list(answer.refused_layers)

    await eventually(refused)
    (layer,) = await refused()
    assert (layer.name, layer.source) == ("dev", str(path))
    assert "line 3" in layer.reason
    # Other changes go on meanwhile, with the content that was good.
    assert (await plane.apply("services:\n  other:\n    timeout: 2.5s\n")).revision.number == 3
    assert await plane.all_have('"3.500s"')

    path.write_text("services:\n  echo:\n    timeout: 4.5s\n")
    await eventually(lambda: plane.all_have('"4.500s"'))
    assert await refused() == []
    assert await plane.all_have('"2.500s"')


async def test_a_file_that_envoys_refuse_is_undone_and_not_tried_again(plane, eventually):
    (plane.layers / "dev.yaml").write_text(REFUSED)

    async def is_undone():
        return (await plane.history())[0].status == ROLLED_BACK

    await eventually(is_undone)
    answer = await plane.config.GetDocument(config_service_pb2.GetDocumentRequest(), timeout=5)
    assert answer.revision.number == 1

    async def is_told():
        return "dev" in plane.document.sources.refused

    await eventually(is_told)
    assert (await plane.apply(GOOD)).revision.number == 3


STAGED_HEAD = "mesh:\n  rollout: {strategy: staged, first_percent: 50, hold: 500ms, max_error_percent: 5}\n"


async def test_a_staged_change_goes_to_one_proxy_and_then_to_all(plane, eventually):
    answer = await plane.apply(f"{STAGED_HEAD}{GOOD}", wait={"seconds": 0})
    assert answer.revision.status == STAGED
    (first,) = plane.document.rollout.trials.first
    await eventually(lambda: plane.envoys[first.partition("/")[2]].has('"7.500s"'))
    # Not by chance the first: the other one has what was before.
    assert not await plane.all_have('"7.500s"')
    await eventually(lambda: plane.all_have('"7.500s"'))
    assert (await plane.history())[0].status == ACTIVE
    assert plane.audit[-1]["action"] == "promote"


async def test_a_staged_change_with_errors_is_undone_with_the_share(plane, eventually):
    plane.error_percent = 12.5
    answer = await plane.apply(f"{STAGED_HEAD}{GOOD}", wait={"seconds": 8})

    async def is_undone():
        newest = (await plane.history())[0]
        # The cause is written down right after.
        return newest.status == ROLLED_BACK and newest.cause

    await eventually(is_undone)
    assert answer.revision.number == 2
    assert "12.5 % of the requests failed" in (await plane.history())[0].cause
    await eventually(lambda: plane.none_has('"7.500s"'))


async def test_a_staged_change_that_is_refused_never_reaches_the_others(plane):
    answer = await plane.apply(STAGED_HEAD + REFUSED)
    assert answer.revision.status == ROLLED_BACK
    assert len({refusal.node_id for refusal in answer.revision.refusals}) == 1
    assert await plane.none_has('"9.250s"')


async def test_a_staged_change_is_taken_back_by_rollback(plane):
    slow = STAGED_HEAD.replace("500ms", "1h")
    await plane.apply(f"{slow}{GOOD}", wait={"seconds": 0})
    with pytest.raises(grpc.aio.AioRpcError, match="staged"):
        await plane.apply("services: {}\n")
    answer = await plane.config.RollbackDocument(config_service_pb2.RollbackDocumentRequest(message="no"), timeout=20)
    assert (answer.revision.number, answer.revision.status) == (2, ROLLED_BACK)
    assert answer.revision.cause.endswith(": no.")
    assert (await plane.apply("services: {}\n")).revision.number == 3


async def test_a_watcher_sees_a_change_come_and_go(plane):
    calls = plane.config.WatchDocument(config_service_pb2.WatchDocumentRequest())
    first = await asyncio.wait_for(calls.read(), 5)
    assert first.revision.number == 1
    await plane.apply(REFUSED)
    seen = []
    while not seen or seen[-1] != (2, ROLLED_BACK):
        answer = await asyncio.wait_for(calls.read(), 5)
        seen.append((answer.revision.number, answer.revision.status))
    calls.cancel()
    assert seen[0][0] == 2


async def test_a_call_is_explained(plane):
    await plane.apply(GOOD)
    request = config_service_pb2.ExplainCallRequest(caller="caller", callee="echo", method="/a.B/C")
    answer = await plane.config.ExplainCall(request, timeout=5)
    assert answer.route == "default route"
    assert [target.target for target in answer.targets] == ["echo"]
    assert os.linesep not in answer.verdict


async def test_over_the_network_only_a_named_identity_reads_and_changes(plane):
    request = config_service_pb2.ApplyDocumentRequest(document=GOOD)
    async with plane.open_config_as("operations") as config:
        answer = await config.ApplyDocument(request, timeout=20)
        assert answer.revision.author == "spiffe://mesh.test/ns/default/svc/operations"
    async with plane.open_config_as("caller") as config:
        for refused in (
            config.ApplyDocument(request, timeout=5),
            config.GetDocument(config_service_pb2.GetDocumentRequest(), timeout=5),
            config.ListRevisions(config_service_pb2.ListRevisionsRequest(), timeout=5),
            config.PlanDocument(config_service_pb2.PlanDocumentRequest(document=GOOD), timeout=5),
            config.ListProxyResources(config_service_pb2.ListProxyResourcesRequest(), timeout=5),
            config.WatchDocument(config_service_pb2.WatchDocumentRequest()).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await refused
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
