"""TCP ports of this machine: taking one for an Envoy, and telling who holds one."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mesh.errors import AlreadyExists, InvalidInput
from mesh.model import Address

_LISTEN = "0A"


@contextmanager
def reserve(address: Address, *, field: str) -> Iterator[Address]:
    """Hold a port while the block runs; port 0 stands for any free one. Yields the address with its port.

    The port is bound and not listened on, with SO_REUSEPORT, so that an Envoy of the same user can listen on it, and
    again after a crash, and nobody else in between. Raises AlreadyExists that tells who holds it, and InvalidInput
    for an address that is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        if address.port:
            # Without SO_REUSEPORT: else a port that an Envoy of another mesh listens on would look free.
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address.host, address.port))
        held = socket.socket(family)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((address.host, address.port))
    except OSError as err:
        raise _not_usable(address, field, err) from err
    with held:
        yield Address(address.host, held.getsockname()[1])


def _not_usable(address: Address, field: str, err: OSError) -> AlreadyExists | InvalidInput:
    if err.errno == errno.EADDRINUSE:
        holder = port_holder(address.port)
        return AlreadyExists(
            f"{address} is taken{f' by {holder}' if holder else ''}.",
            reason="PORT_TAKEN",
            field=field,
            fix=f"Stop it, or choose another address with {field}.",
        )
    return InvalidInput(
        f"Nothing can listen on {address}: {err.strerror or err}.",
        field=field,
        fix="Use an address of this machine, for example 127.0.0.1, and a port above 1023.",
    )


def port_holder(port: int) -> str:
    """Who listens on a TCP port of this machine, as "NAME (process PID)"; "" when that cannot be seen."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with suppress(OSError):
            if any(str(link.readlink()) in inodes for link in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return ""


def _listening_inodes(port: int) -> Iterator[str]:
    # Columns: sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode; see proc_net_tcp in the kernel.
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                    yield columns[9]
