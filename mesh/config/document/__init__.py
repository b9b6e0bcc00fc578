"""The mesh document: the policy of the mesh as one typed value, and how it is read.

    values < models < policy         what a document says
    layers of YAML ──load_document──> LoadedDocument ──check_references──> faults

May import model and below.
"""

from mesh.config.document.loading import BUILT_IN, Layer, LoadedDocument, Origin, load_document
from mesh.config.document.models import Intention, MeshDocument, Service, ServicePolicy
from mesh.config.document.policy import EMPTY, NamedIntentions, Policy, merge, targets_of
from mesh.config.document.references import check_references, find_absent_services
from mesh.config.document.routing import Retry, Route
from mesh.config.document.values import HeaderMatch, Secret, Text, duration_text, parse_duration, split_target

__all__ = [
    "BUILT_IN",
    "EMPTY",
    "HeaderMatch",
    "Intention",
    "Layer",
    "LoadedDocument",
    "MeshDocument",
    "NamedIntentions",
    "Origin",
    "Policy",
    "Retry",
    "Route",
    "Secret",
    "Service",
    "ServicePolicy",
    "Text",
    "check_references",
    "duration_text",
    "find_absent_services",
    "load_document",
    "merge",
    "parse_duration",
    "split_target",
    "targets_of",
]
