"""Where queries begin. All may be null: what one of them cannot find does not hide what the others have found."""

import strawberry

from mesh.errors import InvalidInput
from services.gateway.cursors import build_cursor, parse_cursor
from services.gateway.web.graphql.limits import PAGE
from services.gateway.web.graphql.pages import Connection, PageInfo, check_first, take
from services.gateway.web.graphql.reader import Reader
from services.gateway.web.graphql.types import After, Agent, Context, First, Revision, Service


@strawberry.type(description="What there is in the mesh, as far as you may see it.")
class Query:
    """Reads only: what changes the mesh goes another way."""

    @strawberry.field(description="Services, sorted by name; with `kind` those of one kind: agent, mcp, service.")
    def services(
        self, info: Context, kind: str | None = None, first: First = PAGE, after: After = None
    ) -> Connection[Service] | None:
        found = info.context.viewer.services(kind or "")
        page, where = take(found, first, after, lambda service: service.name)
        return Connection(nodes=[Service(_told=it) for it in page], page_info=where, total_count=len(found))

    @strawberry.field(description="One service.")
    def service(self, info: Context, name: str) -> Service | None:
        return Service(_told=info.context.viewer.service(name))

    @strawberry.field(description="Agents, sorted by name.")
    def agents(self, info: Context, first: First = PAGE, after: After = None) -> Connection[Agent] | None:
        found = info.context.viewer.services("agent")
        page, where = take(found, first, after, lambda service: service.name)
        return Connection(nodes=[Agent(_told=it) for it in page], page_info=where, total_count=len(found))

    @strawberry.field(description="One agent.")
    def agent(self, info: Context, name: str) -> Agent | None:
        return find_agent(info.context, name)

    @strawberry.field(
        description="Revisions of the mesh document, newest first, for those who may call "
        "agentmesh.gateway.v1.GatewayService/ListRevisions of the gateway."
    )
    async def revisions(self, info: Context, first: First = PAGE, after: After = None) -> Connection[Revision] | None:
        check_first(first)
        found = await info.context.revisions(first + 1, _number_in(after) if after else 0)
        nodes = [Revision.of(it) for it in found[:first]]
        cursor = build_cursor(str(nodes[-1].number)) if nodes else None
        return Connection(
            nodes=nodes, page_info=PageInfo(has_next_page=len(found) > first, end_cursor=cursor), total_count=None
        )


def find_agent(reader: Reader, name: str) -> Agent:
    """An agent that the caller may see. Raises NotFound, and InvalidInput for a service of another kind."""
    service = reader.viewer.service(name)
    if service.kind != "agent":
        raise InvalidInput(f"{name} is no agent.", reason="NO_AGENT", field="name", fix="`agents` lists those.")
    return Agent(_told=service)


def _number_in(cursor: str) -> int:
    text = parse_cursor(cursor, "after")
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text)):
        raise InvalidInput("This marks no revision.", field="after", fix="Send an endCursor that you were given.")
    return int(text)
