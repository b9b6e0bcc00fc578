"""The addresses that a server listens on."""

import stat

import pytest

from mesh.errors import AlreadyExists, InvalidInput, NotFound
from mesh.rpc import ServerSettings, open_server


async def test_a_unix_socket_is_private_and_gone_afterwards(serve, short_dir):
    async with serve():
        assert stat.S_IMODE((short_dir / "s.sock").stat().st_mode) == 0o600
    assert not (short_dir / "s.sock").exists()


async def test_a_socket_that_is_in_use_is_refused_and_a_dead_one_is_taken_over(serve, short_dir):
    async with serve():
        with pytest.raises(AlreadyExists) as caught:
            async with open_server(ServerSettings("other", f"unix:{short_dir}/s.sock"), []):
                pass
        assert f"{short_dir}/s.sock" in str(caught.value)
    import socket

    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(short_dir / "s.sock"))
    dead.close()
    async with serve() as (_, calls):
        assert await calls.unary(b"a") == b"a"


async def test_a_file_that_is_no_socket_is_left_alone(short_dir):
    path = short_dir / "s.sock"
    path.write_text("precious")
    with pytest.raises(AlreadyExists, match="not a socket"):
        async with open_server(ServerSettings("test", f"unix:{path}"), []):
            pass
    assert path.read_text() == "precious"


async def test_a_port_that_is_in_use_is_refused(serve):
    async with serve(listen="127.0.0.1:0") as (server, _):
        assert server.port > 0
        with pytest.raises(AlreadyExists, match=f":{server.port}") as caught:
            async with open_server(ServerSettings("other", f"127.0.0.1:{server.port}"), []):
                pass
        assert "in use" in str(caught.value)


async def test_a_socket_path_that_is_too_long_is_named():
    path = "/tmp/" + "x" * 120
    with pytest.raises(InvalidInput, match=path) as caught:
        async with open_server(ServerSettings("test", f"unix:{path}"), []):
            pass
    assert caught.value.field == "listen"


@pytest.mark.parametrize("listen", ["unix:/tmp/" + "x" * 120, "nonsense", "unix:/no/such/dir/s.sock", "127.0.0.1:x"])
async def test_an_address_that_cannot_be_used_is_named(listen):
    with pytest.raises((InvalidInput, NotFound, AlreadyExists)) as caught:
        async with open_server(ServerSettings("test", listen), []):
            pass
    assert caught.value.fix
