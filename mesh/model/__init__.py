"""What a mesh consists of, as frozen values. Imports the standard library and `mesh.errors` only."""

from mesh.model.address import Address
from mesh.model.identity import SpiffeId
from mesh.model.proxy import ProxySpec
from mesh.model.service import KINDS, RESERVED_NAMES, ZONE, Declaration, Instance, check_service_name, check_zone
from mesh.model.token_issuer import TokenIssuer

__all__ = [
    "KINDS",
    "RESERVED_NAMES",
    "ZONE",
    "Address",
    "Declaration",
    "Instance",
    "ProxySpec",
    "SpiffeId",
    "TokenIssuer",
    "check_service_name",
    "check_zone",
]
