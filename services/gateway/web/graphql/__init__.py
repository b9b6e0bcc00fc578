"""GraphQL at /graphql: services, instances, agents, tools, tasks, revisions of the configuration; and what changes.

query ──bounds──> schema ──> Knowledge, by Viewer: at hand
                         └─> Reader ──> Members: asks services, with deadlines, as the caller
"""

from services.gateway.web.graphql.routes import GraphQLDoor
from services.gateway.web.graphql.streams import Times

__all__ = ["GraphQLDoor", "Times"]
