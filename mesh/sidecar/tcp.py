"""TCP ports of this machine: taking one for an Envoy, and telling who holds one."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mesh.errors import AlreadyExists, InvalidInput, PermissionDenied
from mesh.model import Address

_LISTEN = "0A"


@contextmanager
def reserve(address: Address, *, field: str) -> Iterator[Address]:
    """Hold a port while the block runs; port 0 stands for any free one. Yields the IP address and the port.

    The port is bound, not listened on, and open for SO_REUSEPORT: an Envoy of the same user can listen on it, and
    again after a crash, and nobody else in between. Raises AlreadyExists that tells who holds it, PermissionDenied for
    a port that this user may not have, and InvalidInput for an address that is none of this machine's.
    """
    try:
        family, host = resolve(address.host)
        held = _bind(family, host, address.port)
    except OSError as err:
        raise _not_usable(address, field, err) from err
    with held:
        # Bound alone and opened afterwards. Bound with SO_REUSEPORT at once, it would share with whoever is there.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield Address(*held.getsockname()[:2])


def resolve(host: str) -> tuple[socket.AddressFamily, str]:
    """The family and the IP address of a host, IPv4 where it has both; raises OSError when it has none.

    Envoy takes no names where it listens, nor for endpoints.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    family, _, _, _, name = min(found, key=lambda entry: entry[0] is not socket.AF_INET)
    return family, str(name[0])


def port_holder(port: int) -> str:
    """Who listens on a TCP port of this machine, as "NAME (process PID)"; "" when that cannot be seen."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with suppress(OSError):
            if any(_target(link) in inodes for link in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return ""


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    try:
        return _bind_once(family, host, port, reuse=False)
    except OSError as err:
        if err.errno != errno.EADDRINUSE:
            raise
        # Perhaps only connections of an earlier user linger there (TIME_WAIT). Not at first: two that both bind with
        # SO_REUSEADDR do not notice one another.
        return _bind_once(family, host, port, reuse=True)


def _bind_once(family: socket.AddressFamily, host: str, port: int, *, reuse: bool) -> socket.socket:
    held = socket.socket(family)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        if family is socket.AF_INET6:
            # As Envoy binds: "::" does not take the IPv4 port, too.
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        held.bind((host, port))
    except OSError:
        held.close()
        raise
    return held


def _not_usable(address: Address, field: str, err: OSError) -> AlreadyExists | InvalidInput | PermissionDenied:
    if err.errno == errno.EADDRINUSE:
        holder = port_holder(address.port)
        return AlreadyExists(
            f"{address} is taken{f' by {holder}' if holder else ''}.",
            reason="PORT_TAKEN",
            field=field,
            fix=f"Stop it, or choose another address with {field}.",
        )
    if err.errno == errno.EACCES:
        return PermissionDenied(
            f"This user may not listen on {address}.",
            reason="PORT_FORBIDDEN",
            field=field,
            fix="Use a port above 1023.",
        )
    return InvalidInput(
        f"Nothing can listen on {address}: {err.strerror or err}.",
        field=field,
        fix="Use an address of this machine, for example 127.0.0.1.",
    )


def _target(link: Path) -> str:
    # A descriptor that is closed while we look must not hide the others.
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _listening_inodes(port: int) -> Iterator[str]:
    # Columns: sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode; see proc_net_tcp in the kernel.
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                    yield columns[9]
