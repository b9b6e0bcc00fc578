"""Secrets of the mesh document in the keys of a real Consul."""

from mesh.config import MeshSettings
from mesh.discovery import ConsulEndpoint, open_consul_agent, open_kv
from mesh.state import open_secret_store


async def test_control_planes_with_one_key_share_secrets_and_consul_sees_none(new_settings, tmp_path):
    agent = new_settings()
    environment = {
        "CONSUL_HTTP_ADDR": str(agent.http),
        "MESH_SECRETS_STORE": "consul",
        "MESH_SECRETS_KEY_FILE": str(tmp_path / "shared.key"),
    }
    one = MeshSettings.from_environment({**environment, "MESH_STATE_DIR": str(tmp_path / "one")})
    other = MeshSettings.from_environment({**environment, "MESH_STATE_DIR": str(tmp_path / "other")})
    async with open_consul_agent(agent):
        async with open_secret_store(one) as store:
            await store.set("team/key", "hunter2")
            await store.set("other", "x")
        async with open_secret_store(other) as store:
            assert await store.get("team/key") == "hunter2"
            assert await store.list() == ["other", "team/key"]
            assert await store.remove("other")
            assert await store.get("other") is None
            assert not await store.remove("other")
        async with open_kv(ConsulEndpoint(agent.http)) as kv:
            entries = await kv.list("agentmesh/secrets/")
    assert list(entries) == ["agentmesh/secrets/team/key"]
    assert b"hunter2" not in entries["agentmesh/secrets/team/key"].value
