"""What canaries need of the mesh document."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class Fate(enum.Enum):
    """What became of a revision."""

    COMING = "coming"
    """A part of the proxies has it, or it is about to be in force."""
    IN_FORCE = "in force"
    REPLACED = "replaced"
    """Another author's revision took its place."""
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class News:
    """The fate of a revision. `text` tells of who replaced it, or why it was undone."""

    fate: Fate
    text: str = ""


class Document(Protocol):
    """The mesh document and its history."""

    async def set_split(self, service: str, split: Mapping[str, int], *, author: str, message: str) -> int:
        """Change `services.NAME.split` in the operator's layer, and return the revision that has it.

        It may be staged. A split that is in force already makes no revision. Raises InvalidInput when the document
        would not be valid, FailedPrecondition (CHANGE_UNDONE) when proxies refuse it, and other MeshErrors that pass.
        """
        ...

    async def news_of(self, revision: int) -> News:
        """What became of a revision. Raises MeshError when the history cannot be read."""
        ...
