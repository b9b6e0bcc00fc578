"""What status says of services that are not well, and of those of another kind."""

from dataclasses import replace

import pytest

from agentmesh.control.v1 import control_pb2
from mesh.config import MeshSettings
from mesh.errors import FailedPrecondition, NotFound, Unavailable
from services.meshctl.connection import RunningMesh, find_service, running_file
from services.meshctl.inspect import check_kind, read_each
from services.meshctl.status import find_ill


def service(name: str, *healthy: bool, kind: str = "mcp", output: str = "connection\nrefused") -> control_pb2.Service:
    return control_pb2.Service(
        name=name,
        kind=kind,
        instances=[
            control_pb2.Instance(id=f"{name}-{number}", healthy=is_healthy, health_output="" if is_healthy else output)
            for number, is_healthy in enumerate(healthy, start=1)
        ],
    )


def test_every_instance_must_be_healthy_and_what_is_not_says_why() -> None:
    services = [service("a", True, True), service("b", True, False), service("gone")]
    assert find_ill(services, ["a", "b"]) == {"b": "b-2: connection refused"}


def test_a_service_that_is_expected_must_be_registered() -> None:
    assert find_ill([service("a")], ["a", "b"]) == {"a": "not registered", "b": "not registered"}


def test_a_check_without_words_still_has_a_reason() -> None:
    assert find_ill([service("a", False, output="")], []) == {"a": "a-1: its health check does not pass"}


@pytest.mark.parametrize(
    ("kind", "words"), [("agent", "meshctl agents a"), ("mcp", "meshctl tools a"), ("service", "buf curl")]
)
def test_a_service_of_another_kind_is_told_with_what_to_do_instead(kind: str, words: str) -> None:
    found = service("a", True, kind=kind)
    check_kind(found, kind)
    with pytest.raises(FailedPrecondition, match=words):
        check_kind(found, "gateway")


def test_an_unknown_service_gets_the_nearest_that_run() -> None:
    services = [service("financial", True), service("finance")]
    with pytest.raises(NotFound, match=r"Did you mean financial\?"):
        find_service(services, "financal")
    with pytest.raises(NotFound, match="There are: financial"):
        find_service(services, "zzz")


def test_a_service_without_a_healthy_instance_says_which_way() -> None:
    with pytest.raises(Unavailable, match="No instance of a is healthy: connection refused"):
        find_service([service("a", False)], "a")
    with pytest.raises(Unavailable, match="no instance of it runs"):
        find_service([service("a")], "a")


@pytest.mark.parametrize("text", ["", "[]", "null", '{"pid": 1}', '{"pid": "x", "services": [], "endpoints": {}}'])
def test_a_broken_note_of_what_runs_is_none(tmp_path, text: str) -> None:
    settings = replace(MeshSettings.from_environment({}), state_dir=tmp_path)
    running_file(settings).write_text(text)
    assert RunningMesh.load(settings) is None


def test_what_runs_is_read_as_it_was_written(tmp_path) -> None:
    settings = replace(MeshSettings.from_environment({}), state_dir=tmp_path)
    written = RunningMesh(7, ("a",), {"gateway": "http://127.0.0.1:7", "gateway_tls": "https://127.0.0.1:8"})
    written.save(running_file(settings))
    assert RunningMesh.load(settings) == written
    assert (str(written.gateway), str(written.gateway_tls)) == ("127.0.0.1:7", "127.0.0.1:8")


async def test_one_service_that_does_not_answer_hides_no_other() -> None:
    async def read(name: str) -> str:
        if name == "b":
            raise Unavailable("Deadline Exceeded")
        return name.upper()

    found, errors = await read_each(["a", "b", "c"], read)
    assert found == {"a": "A", "c": "C"}
    assert [str(error) for error in errors] == ["b does not answer as it should: Deadline Exceeded"]


async def test_a_defect_in_reading_stays_one() -> None:
    async def read(name: str) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await read_each(["a"], read)
