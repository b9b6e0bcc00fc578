"""The schema, and how operations are run by it: each with a reader of its own, on a WebSocket, too."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import strawberry
from graphql import GraphQLError
from strawberry.types.execution import ExecutionResult, PreExecutionError

from mesh.errors import MeshError
from mesh.telemetry import get_logger
from services.gateway.viewer import Viewer
from services.gateway.web.caller import Caller
from services.gateway.web.graphql.documents import DocumentReader, Documents
from services.gateway.web.graphql.queries import Query
from services.gateway.web.graphql.reader import Reader, Sources, open_reader
from services.gateway.web.graphql.subscriptions import Subscription

_log = get_logger(__name__)


class Connected:
    """The context of a request, or of a WebSocket with all that is asked on it."""

    def __init__(self, sources: Sources, caller: Caller) -> None:
        self.sources = sources
        self.caller = caller
        self.viewer = Viewer(sources.knowledge, caller.principal)


class Schema(strawberry.Schema):
    """Gives each operation a Reader as its context, in place of Connected."""

    async def execute(  # type: ignore[override]
        self, query: str | None, *, context_value: Connected, **kwargs: Any
    ) -> ExecutionResult:
        """One answer."""
        try:
            async with _reader_of(context_value) as reader:
                return await super().execute(query, context_value=reader, **kwargs)
        except MeshError as err:
            return ExecutionResult(data=None, errors=[_error_of(err)])

    async def stream(  # type: ignore[override]
        self, query: str | None, *, context_value: Connected, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        """One answer, or for a subscription any number."""
        run = super().stream

        async def results() -> AsyncGenerator[Any, None]:
            try:
                async with (
                    _reader_of(context_value) as reader,
                    aclosing(await run(query, context_value=reader, **kwargs)) as found,
                ):
                    async for result in found:
                        yield result
            except MeshError as err:
                yield PreExecutionError(data=None, errors=[_error_of(err)])

        return results()

    def process_errors(self, errors: list[GraphQLError], execution_context: Any = None) -> None:
        """Before they are sent."""
        reader = execution_context.context if execution_context is not None else None
        for error in errors:
            _explain(error, reader.caller.correlation_id if isinstance(reader, Reader) else "")


def build_schema() -> Schema:
    """The schema of the gateway."""
    documents = Documents()
    return Schema(query=Query, subscription=Subscription, extensions=[lambda: DocumentReader(documents)])


def _reader_of(connected: Connected) -> AbstractAsyncContextManager[Reader]:
    return open_reader(connected.sources, connected.caller, connected.viewer)


def _error_of(error: MeshError) -> GraphQLError:
    made = GraphQLError(error.summary, original_error=error)
    _explain(made, "")
    return made


def _explain(error: GraphQLError, correlation_id: str) -> None:
    """Put reason, field and fix of our errors beside them; what is none of ours is logged and not told."""
    cause = error.original_error
    while isinstance(cause, GraphQLError):
        cause = cause.original_error
    if cause is None:
        # It is about the query itself.
        error.extensions = {"reason": "QUERY_INVALID", **(error.extensions or {})}
        return
    if isinstance(cause, MeshError):
        facts = {"reason": cause.reason, "field": cause.field, "fix": cause.fix, "service": cause.service}
        error.extensions = {name: value for name, value in facts.items() if value}
        error.message = cause.summary
        return
    _log.error("graphql_failed", path=str(error.path), exc_info=cause)
    error.message = "The gateway met an unexpected error."
    error.extensions = {"reason": "INTERNAL", **({"correlationId": correlation_id} if correlation_id else {})}
