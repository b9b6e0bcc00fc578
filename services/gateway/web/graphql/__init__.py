"""GraphQL at /graphql: services, instances, agents, tools, tasks, revisions of the configuration; and what changes.

query ──bounds──> schema ──> Knowledge (at hand), Reader (asks services, with deadlines)
"""

from services.gateway.web.graphql.routes import graphql_routes

__all__ = ["graphql_routes"]
