"""The declarations that several control planes on one Consul have in common.

Each control plane keeps its own file, so that it can start and serve without Consul. What is declared at one of them is
written to Consul's KV, from where the others take it:

    DeclareService ──> file ──> agentmesh/declarations/NAME ──watch──> files of the others

What was said last counts. A removal leaves a mark, so that a Consul that lost its data is told apart from it: what such
a Consul does not know is written anew.
"""

import asyncio
import json
from collections.abc import Callable

from mesh.config import DeclarationStore
from mesh.discovery import ConsulEndpoint, KvView, open_kv, watch_keys
from mesh.errors import InvalidInput, MeshError
from mesh.model import Declaration
from mesh.runtime import Backoff
from mesh.telemetry import get_logger
from services.control_plane.reserved_names import check_declarable

PREFIX = "agentmesh/declarations/"

_log = get_logger(__name__)


class SharedDeclarations:
    """Keeps `store` and Consul's KV in step; `changed` is called after the store took something from the KV."""

    def __init__(self, store: DeclarationStore, endpoint: ConsulEndpoint, changed: Callable[[], None]) -> None:
        self._store = store
        self._endpoint = endpoint
        self._changed = changed
        # Names that were changed here and not written yet.
        self._unwritten: set[str] = set()
        self._to_write = asyncio.Event()
        self._known: dict[str, bytes] = {}
        self._is_denied = False

    def note(self, name: str) -> None:
        """The declaration of `name` was made, changed or removed here."""
        self._unwritten.add(name)
        self._to_write.set()

    async def follow(self) -> None:
        """Exchange changes for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write())
            async for view in watch_keys(lambda: open_kv(self._endpoint), PREFIX):
                if view.is_available:
                    self.take(view)

    def take(self, view: KvView) -> None:
        """Take what the KV holds, and mark for writing what it lacks."""
        self._known = {key.removeprefix(PREFIX): entry.value for key, entry in view.entries.items()}
        has_changed = False
        for name, value in self._known.items():
            if name not in self._unwritten:
                has_changed |= self._take_one(name, value)
        for name in self._store.declarations:
            if name not in self._known:
                self.note(name)
        if has_changed:
            self._changed()

    def _take_one(self, name: str, value: bytes) -> bool:
        try:
            wanted = parse_entry(name, value)
        except InvalidInput as err:
            _log.error("declaration_not_taken", declared=name[:80], error=str(err))
            return False
        if self._store.declarations.get(name) == wanted:
            return False
        if wanted is None:
            self._store.forget(name)
        else:
            self._store.declare(wanted)
        _log.info("declaration_taken", declared=name)
        return True

    async def _write(self) -> None:
        backoff = Backoff(0.2, 5.0)
        async with open_kv(self._endpoint) as kv:
            while True:
                await self._to_write.wait()
                self._to_write.clear()
                for name in sorted(self._unwritten):
                    value = build_entry(self._store.declarations.get(name))
                    try:
                        if self._known.get(name) != value:
                            await kv.put(f"{PREFIX}{name}", value)
                    except MeshError as err:
                        if not self._is_denied or err.retryable:
                            _log.warning("declaration_not_shared", declared=name, reason=err.reason, error=str(err))
                        self._is_denied = not err.retryable
                        self._to_write.set()
                        await asyncio.sleep(backoff.next())
                        break
                    # Said anew meanwhile: written again.
                    if build_entry(self._store.declarations.get(name)) == value:
                        self._unwritten.discard(name)
                    else:
                        self._to_write.set()
                else:
                    backoff.reset()


def build_entry(declaration: Declaration | None) -> bytes:
    """What stands in the KV for a declaration; None stands for one that was removed."""
    if declaration is None:
        return b'{"removed": true}'
    return json.dumps({"kind": declaration.kind, "upstreams": list(declaration.upstreams)}).encode()


def parse_entry(name: str, value: bytes) -> Declaration | None:
    """Read an entry back; raises InvalidInput for one that is none."""
    try:
        content = json.loads(value)
        if content == {"removed": True}:
            return None
        upstreams = content["upstreams"]
        if not isinstance(upstreams, list) or not all(isinstance(word, str) for word in (content["kind"], *upstreams)):
            raise TypeError
        declaration = Declaration(name, content["kind"], tuple(upstreams))
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise InvalidInput(
            f"The entry {PREFIX}{name} of Consul's KV is no declaration.",
            field=f"{PREFIX}{name}",
            fix="Delete it there, and declare the service anew.",
        ) from err
    check_declarable(declaration)
    return declaration
