import asyncio
from pathlib import Path

import pytest

from mesh.agent import Agent, AgentServicer, TaskContext, User, open_board
from mesh.agent.user import verify_user
from mesh.errors import Unauthenticated
from mesh.identity import CertificateAuthority, Svid, write_svid_files
from mesh.identity.svid import create_csr, create_key
from mesh.identity.user_token import UserTokenSigner
from mesh.model import SpiffeId
from mesh.rpc.context import CallContext, current_call, current_user


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a gateway has signed for ada, in a mesh that this process is a member of."""
    authority = CertificateAuthority.open(tmp_path / "ca", trust_domain="test.local")
    key, _ = create_key()
    signed = authority.sign(create_csr(key), SpiffeId("test.local", "default", "gateway"), reason="test")
    write_svid_files(tmp_path / "svid", Svid.from_pem(signed.chain_pem, key, authority.bundle_pem))
    monkeypatch.setenv("MESH_TRUST_BUNDLE", str(tmp_path / "svid" / "bundle.pem"))
    monkeypatch.setenv("MESH_TRUST_DOMAIN", "test.local")
    claims = {"sub": "user:ada", "kind": "user", "name": "ada", "roles": ["caller"]}
    return UserTokenSigner(tmp_path / "svid").sign("ada", claims)


def test_nobody_is_spoken_of_without_a_token() -> None:
    assert verify_user("") is None


def test_the_user_is_the_one_that_the_gateway_has_signed_for(token: str) -> None:
    assert verify_user(token) == User("user:ada", "user", "ada", ("caller",))


def test_a_token_that_does_not_hold_is_no_user(token: str) -> None:
    with pytest.raises(Unauthenticated):
        verify_user(token[:-6])


def test_outside_of_a_mesh_nobody_can_be_vouched_for(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MESH_TRUST_BUNDLE")
    with pytest.raises(Unauthenticated) as found:
        verify_user(token)
    assert found.value.field == "MESH_TRUST_BUNDLE"


async def test_a_task_knows_its_user_and_goes_on_in_the_users_name(token: str) -> None:
    from agentmesh.agent.v1 import agent_service_pb2 as pb

    seen: list[tuple[User | None, str]] = []
    agent = Agent(name="greeter", version="1.0.0", description="Greets.")

    @agent.skill(id="greet")
    async def greet(input: str, task: TaskContext) -> str:  # noqa: A002 - the word of the contract
        """Greet."""
        seen.append((task.user, current_user.get()))
        return "hello"

    async with open_board(agent, None, instance="") as board:
        servicer = AgentServicer(agent, board, service="greeter", draining=asyncio.Event())

        async def submit(user_token: str, message_id: str) -> str:
            current_call.set(CallContext("/m", "c", None, None, user_token))
            request = pb.SubmitTaskRequest(skill_id="greet", message_id=message_id)
            request.input.add(text="ann")
            return str((await servicer.SubmitTask(request, None)).task.id)

        first = await asyncio.create_task(submit(token, "1"))
        again = await asyncio.create_task(submit(token, "1"))
        other = await asyncio.create_task(submit("", "1"))
        assert first == again
        # The message ids of one user are not those of another who comes by the same gateway.
        assert other != first
        async with asyncio.timeout(5):
            while len(seen) < 2:
                await asyncio.sleep(0)
    assert (User("user:ada", "user", "ada", ("caller",)), token) in seen
    assert (None, "") in seen
