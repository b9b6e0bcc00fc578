"""What canaries need of the mesh document's pipeline."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

Edit = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From the operator's layer as plain values to the same with a change."""


class Document(Protocol):
    """The mesh document and its history."""

    async def apply(self, edit: Edit, *, author: str, message: str) -> int:
        """Change the operator's layer, and return the revision that is in force with all proxies that answer.

        An edit that changes nothing returns the newest revision. Raises MeshError when the document would not be
        valid, when proxies refuse it and it was undone, or when it cannot be kept.
        """
        ...
