"""Binding a gRPC server to an address, with errors that say what is wrong."""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc

from mesh.errors import AlreadyExists, InvalidInput
from mesh.model import Address

# The kernel takes 107 bytes.
_LONGEST_SOCKET_PATH = 100


def socket_path(listen: str) -> Path | None:
    """The path in "unix:PATH", or None for a TCP address; raises InvalidInput for what is neither."""
    if not listen.startswith("unix:"):
        Address.parse(listen, field="listen")
        return None
    path = Path(listen.removeprefix("unix:"))
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise InvalidInput(
            f"The socket path {path} has more than {_LONGEST_SOCKET_PATH} bytes.",
            field="listen",
            fix="Use a shorter state directory, for example MESH_STATE_DIR=/tmp/mesh.",
        )
    return path


def bind(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None) -> int:
    """Bind `server` and return its port, 0 for a unix socket, whose file nobody else may open.

    Raises AlreadyExists when the address is in use, and InvalidInput when it is not one of this machine.
    """
    path = socket_path(listen)
    if path is not None:
        _free(path)
    # gRPC makes the file with the umask; setting the mode afterwards would leave it open for a moment.
    with _umask(0o177) if path is not None else contextlib.nullcontext():
        try:
            if credentials is None:
                port = server.add_insecure_port(listen)
            else:
                port = server.add_secure_port(listen, credentials)
        except RuntimeError as err:
            raise _explain(listen, path) from err
    return 0 if path is not None else port


def unlink_own(path: Path, inode: int) -> None:
    """Remove the socket file if it is still the one with that inode: a successor may have put its own there."""
    with contextlib.suppress(OSError):
        if path.stat().st_ino == inode:
            path.unlink()


def _free(path: Path) -> None:
    """Remove a socket file that nobody serves any more; gRPC itself would take the path even from a living server."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise AlreadyExists(
            f"{path} exists and is not a socket.", reason="ADDRESS_TAKEN", field="listen", fix="Use another path."
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            # A full backlog, or a socket of another user: somebody is there.
            pass
    raise AlreadyExists(
        f"Another program serves {path}.", reason="ADDRESS_TAKEN", field="listen", fix="Stop it, or use another path."
    )


def _explain(listen: str, path: Path | None) -> AlreadyExists | InvalidInput:
    """gRPC says nothing but that it failed, so try again with a socket of our own, which says why."""
    if path is not None:
        return InvalidInput(
            f"No socket can be made at {path}.", field="listen", fix="Make its directory, and make it writable."
        )
    address = Address.parse(listen, field="listen")
    try:
        family, kind, _, _, name = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(name)
            probe.listen(1)
        why = "It was taken a moment ago."
    except OSError as err:
        why = err.strerror or str(err)
        if isinstance(err, socket.gaierror | PermissionError) or "assign" in why:
            return InvalidInput(
                f"{listen} cannot be bound: {why}.", field="listen", fix="Use an address of this machine, port >= 1024."
            )
    return AlreadyExists(
        f"{listen} cannot be bound: {why}.",
        reason="ADDRESS_TAKEN",
        field="listen",
        fix=f"End what uses it (`ss -ltnp 'sport = :{address.port}'` shows it), or use another address.",
    )


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    previous = os.umask(mask)
    try:
        yield
    finally:
        os.umask(previous)
