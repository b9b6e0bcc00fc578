"""The mesh document: the policy of the mesh as one typed value.

    values < models < policy

May import model and below.
"""

from mesh.config.document.models import Intention, MeshDocument, Retry, Route, Service, ServicePolicy
from mesh.config.document.policy import EMPTY, Policy, merge, targets_of
from mesh.config.document.values import HeaderMatch, Secret, Text, duration_text, parse_duration, split_target

__all__ = [
    "EMPTY",
    "HeaderMatch",
    "Intention",
    "MeshDocument",
    "Policy",
    "Retry",
    "Route",
    "Secret",
    "Service",
    "ServicePolicy",
    "Text",
    "duration_text",
    "merge",
    "parse_duration",
    "split_target",
    "targets_of",
]
