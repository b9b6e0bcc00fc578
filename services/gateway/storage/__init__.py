"""Where the gateway counts and keeps: a Valkey or Redis that all gateways share, or the memory of this process.

    open_storage(URL) ──> Storage ──counts───> limits
                             └─────answers──> cache          both behind a Circuit of their own

Nothing in here must survive: what is lost is counted and fetched anew.
"""

from services.gateway.storage.circuit import Circuit
from services.gateway.storage.opening import Storage, check_storage_url, open_storage
from services.gateway.storage.ports import Answers, Counts

__all__ = ["Answers", "Circuit", "Counts", "Storage", "check_storage_url", "open_storage"]
