"""Who may read and change the mesh document.

admin unix socket, 0600     the account that owns it; nobody else can open it
mutual TLS port             the identities that MESH_CONFIG_ADMINS names; nobody by default
"""

import pwd
from collections.abc import Callable, Collection
from pathlib import Path

from mesh.errors import PermissionDenied
from mesh.model import SpiffeId
from mesh.rpc import call_context

Access = Callable[[], str]
"""Gives the author of the call at hand; raises PermissionDenied when there must be none."""


def access_by_socket(socket: Path) -> Access:
    """Whoever can open the socket is the account that owns it: gRPC does not tell a unix peer's account."""

    def author() -> str:
        number = socket.stat().st_uid
        try:
            return f"operator {pwd.getpwuid(number).pw_name}"
        except KeyError:
            return f"operator {number}"

    return author


def access_by_certificate(admins: Collection[SpiffeId]) -> Access:
    """The identity in the client's certificate, if it is one of `admins`."""

    def author() -> str:
        caller = call_context().caller
        if caller is None or caller not in admins:
            raise PermissionDenied(
                f"{caller or 'A stranger'} may neither read nor change the mesh document.",
                reason="NOT_A_CONFIG_ADMIN",
                fix="Name its SPIFFE id in MESH_CONFIG_ADMINS of the control plane, or use the admin socket.",
            )
        return str(caller)

    return author
