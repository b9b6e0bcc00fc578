"""What all MCP servers and agents of the mesh offer, put together under names that say where each is from.

    Shelves --+-- a shelf for each server or agent, kept by itself: one that is slow or dead holds up no other
              +-- Listings --> what one caller may see, as JSON that is put together once for all with the same roles
    names     SERVER__TOOL and SERVER+URI, there and back
    ToolIndex search over names and descriptions, for hosts that do not want to read all of them

Nothing in here knows of HTTP or gRPC; where things come from is a `Source`.
"""

from services.gateway.federation.listing import Listings
from services.gateway.federation.names import Names, federated_name, federated_uri, split_uri
from services.gateway.federation.search import ToolIndex
from services.gateway.federation.shelf import Offer, Shelf, Source
from services.gateway.federation.shelves import Shelves

__all__ = [
    "Listings",
    "Names",
    "Offer",
    "Shelf",
    "Shelves",
    "Source",
    "ToolIndex",
    "federated_name",
    "federated_uri",
    "split_uri",
]
