"""The history of the mesh document: numbered revisions, which one is in force, and a change that one author wins.

    KeyStore (Protocol) <── FileKeys, or the keys of Consul
        └──> RevisionStore: append, promote, undo, watch ──> Revision, Head

Secrets are references, so no secret is in a history. May import model and below.
"""

from mesh.config.history.file_keys import FileKeys
from mesh.config.history.keys import Entry, KeyStore
from mesh.config.history.revision import Draft, Head, Layer, Origin, Refusal, Revision, Status
from mesh.config.history.store import OPERATOR, RevisionStore, operator_text, stale, text_hash

__all__ = [
    "OPERATOR",
    "Draft",
    "Entry",
    "FileKeys",
    "Head",
    "KeyStore",
    "Layer",
    "Origin",
    "Refusal",
    "Revision",
    "RevisionStore",
    "Status",
    "operator_text",
    "stale",
    "text_hash",
]
