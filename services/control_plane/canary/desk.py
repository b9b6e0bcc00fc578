"""Wires canaries: where they are kept, who runs them, who answers for them."""

import asyncio
from collections.abc import Callable

from agentmesh.rollout.v1 import canary_service_pb2, canary_service_pb2_grpc
from mesh.config import MeshSettings
from mesh.config.history import FileKeys
from mesh.discovery import ConsulEndpoint
from mesh.rpc import Service
from mesh.state import StateStore
from mesh.xds import LoadReports
from services.control_plane.canary.book import CanaryBook
from services.control_plane.canary.controller import CanaryController
from services.control_plane.canary.document import LayeredDocument
from services.control_plane.canary.servicer import CanaryServicer
from services.control_plane.config_keys import ConsulKeys
from services.control_plane.live_document import LiveDocument

_PREFIX = "agentmesh/canaries/"


class CanaryDesk:
    """The canaries of a running control plane. Made by `open_canaries`; `run` goes into a task."""

    def __init__(self, book: CanaryBook, controller: CanaryController, store: StateStore) -> None:
        self._book = book
        self._controller = controller
        self._store = store

    async def run(self, document_started: asyncio.Event) -> None:
        """Run canaries for ever, once it is known which document is in force."""
        await document_started.wait()
        await self._controller.run()

    def service(self, author: Callable[[], str], draining: asyncio.Event) -> Service:
        """CanaryService for one port; `author` tells who calls there."""
        servicer = CanaryServicer(self._book, self._controller, self._store, author=author, draining=draining)
        return Service(
            canary_service_pb2.DESCRIPTOR.services_by_name["CanaryService"],
            lambda server: canary_service_pb2_grpc.add_CanaryServiceServicer_to_server(servicer, server),
        )


def open_canaries(
    settings: MeshSettings,
    document: LiveDocument,
    store: StateStore,
    consul: ConsulEndpoint | None,
    reports: LoadReports,
) -> CanaryDesk:
    """Canaries that are kept where the document's history is: in files of this machine, or in Consul."""
    if document.is_shared and consul is not None:
        book = CanaryBook(ConsulKeys(consul, prefix=_PREFIX, watched=("canaries",)), is_shared=True)
    else:
        book = CanaryBook(FileKeys(settings.state_dir / "canaries"))
    controller = CanaryController(
        book,
        LayeredDocument(document.rollout, document.sources),
        store,
        reports,
        is_leader=lambda: document.leads,
    )
    return CanaryDesk(book, controller, store)
