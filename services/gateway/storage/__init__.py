"""Where the gateway counts and keeps: a Valkey or Redis that all gateways share, or the memory of this process.

    open_storage(URL) ──> Storage ──counts───> limits
                             ├─────answers──> cache          each behind a Circuit of its own
                         └─────records──> A2A

Counts and answers may be lost: then they are counted and fetched anew. Records stay for as long as the storage.
"""

from services.gateway.storage.circuit import Circuit
from services.gateway.storage.opening import Storage, check_storage_url, open_storage
from services.gateway.storage.ports import Answers, Counts, Records

__all__ = ["Answers", "Circuit", "Counts", "Records", "Storage", "check_storage_url", "open_storage"]
