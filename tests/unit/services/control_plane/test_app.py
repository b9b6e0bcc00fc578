"""The control plane's start, when a setting or a port is of no use."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.config import MeshSettings
from mesh.errors import InvalidInput, MeshError
from mesh.runtime import Stop
from services.control_plane import app


@pytest.fixture
def state_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="am-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("namespace", ["a/b", "A", "a b", "a" * 64])
async def test_a_namespace_that_no_identity_can_hold_is_named(state_dir: Path, namespace: str) -> None:
    settings = MeshSettings.from_environment({"MESH_STATE_DIR": str(state_dir), "MESH_NAMESPACE": namespace})
    with pytest.raises(InvalidInput) as caught:
        await app.run(settings, Stop())
    assert caught.value.field == "MESH_NAMESPACE"
    assert list(state_dir.iterdir()) == []


async def test_the_admin_socket_answers_only_when_all_ports_are_there(state_dir: Path, monkeypatch) -> None:
    opened = []
    open_server = app.open_server

    def open_and_note(settings, *words, **more):
        opened.append(settings.listen)
        return open_server(settings, *words, **more)

    monkeypatch.setattr(app, "open_server", open_and_note)
    with socket.socket() as holder, socket.socket() as free:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        free.bind(("127.0.0.1", 0))
        taken, enrolment = (f"127.0.0.1:{one.getsockname()[1]}" for one in (holder, free))
        free.close()
        settings = MeshSettings.from_environment(
            {"MESH_STATE_DIR": str(state_dir), "MESH_CONTROL_BIND": taken, "MESH_ENROLMENT_BIND": enrolment}
        )
        with pytest.raises(MeshError, match=taken):
            await app.run(settings, Stop())
    assert opened == [enrolment, taken]
