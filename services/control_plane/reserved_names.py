"""Names of services that have a meaning to the mesh itself.

control-plane   its certificate never leaves it, and proxies call it by this name        nobody's
consul          the registry's identity, which checks health and may do nothing else     join tokens only
gateway         the edge                                                                 declared with kind gateway only
"""

from mesh.config import check_declaration
from mesh.errors import FailedPrecondition, InvalidInput
from mesh.model import RESERVED_NAMES, Declaration, check_service_name

CONTROL_PLANE, REGISTRY = RESERVED_NAMES
GATEWAY = "gateway"
MOST_UPSTREAMS = 1000


def check_declarable(declaration: Declaration) -> None:
    """Raise InvalidInput for what is no declaration, and for one that uses a reserved name for something else."""
    if len(declaration.upstreams) > MOST_UPSTREAMS:
        raise InvalidInput(
            f"{declaration.service} cannot have {len(declaration.upstreams)} upstreams.",
            field="upstreams",
            fix=f'Name at most {MOST_UPSTREAMS}, or "*" for all services.',
        )
    check_declaration(declaration)
    if declaration.service in (CONTROL_PLANE, REGISTRY):
        raise _reserved(declaration.service, "name")
    if declaration.service == GATEWAY and declaration.kind != GATEWAY:
        raise InvalidInput(
            f"The name {GATEWAY!r} is for a service of kind gateway, not of kind {declaration.kind!r}.",
            reason="RESERVED_NAME",
            field="kind",
            fix="Declare it with kind gateway, or choose another name.",
        )
    for number, upstream in enumerate(declaration.upstreams):
        if upstream in (CONTROL_PLANE, REGISTRY):
            raise _reserved(upstream, f"upstreams[{number}]")


def check_joinable(service: str, declaration: Declaration | None) -> None:
    """Raise when no workload may join under the name; `declaration` is what was said about the service, if anything."""
    if service == CONTROL_PLANE:
        raise _reserved(service, "service")
    if service == GATEWAY and (declaration is None or declaration.kind != GATEWAY):
        raise FailedPrecondition(
            f"The service {GATEWAY!r} is not declared as a gateway.",
            reason="NOT_A_GATEWAY",
            field="service",
            fix="Declare it first: `meshctl token create gateway --kind gateway`.",
        )


def check_revocable(service: str) -> None:
    """Raise InvalidInput for what is no service name, and for names without which the mesh would shut itself out."""
    check_service_name(service)
    if service in (CONTROL_PLANE, REGISTRY):
        raise _reserved(service, "service")


def _reserved(name: str, field: str) -> InvalidInput:
    return InvalidInput(
        f"The name {name!r} is reserved for the mesh itself.",
        reason="RESERVED_NAME",
        field=field,
        fix="Choose another name.",
    )
