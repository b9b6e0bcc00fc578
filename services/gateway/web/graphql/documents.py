"""Reads queries: bounded, and what has been read and validated is kept for the next time."""

from collections import OrderedDict
from collections.abc import Iterator

from graphql import DocumentNode, MaxIntrospectionDepthRule, parse, validate
from strawberry.extensions import SchemaExtension
from strawberry.schema import Schema

from services.gateway.web.graphql.bounds import check_bounds

MOST_TOKENS = 1_000
"""Words and signs of a query. Validation takes the square of it in time: 0.1 s for this many at the worst."""
_MOST_KEPT = 200
_LONGEST_KEPT = 8 << 10
_MOST_ERRORS = 10


class Documents:
    """Those that were good."""

    def __init__(self) -> None:
        self._good: OrderedDict[str, DocumentNode] = OrderedDict()

    def find(self, query: str) -> DocumentNode | None:
        """The document of a query that was valid before."""
        document = self._good.get(query)
        if document is not None:
            self._good.move_to_end(query)
        return document

    def keep(self, query: str, document: DocumentNode) -> None:
        """Remember that a query is valid."""
        if len(query) <= _LONGEST_KEPT:
            self._good[query] = document
            if len(self._good) > _MOST_KEPT:
                self._good.popitem(last=False)


class DocumentReader(SchemaExtension):
    """Parses, measures and validates one query; what it costs depends on variables, and is measured each time."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._is_known = False

    def on_parse(self) -> Iterator[None]:
        """In place of strawberry's own."""
        context = self.execution_context
        query = context.query or ""
        known = self._documents.find(query)
        self._is_known = known is not None
        context.graphql_document = known or parse(query, no_location=False, max_tokens=MOST_TOKENS)
        yield

    def on_validate(self) -> Iterator[None]:
        """In place of strawberry's own."""
        context = self.execution_context
        document, schema = context.graphql_document, context.schema
        assert document is not None
        assert isinstance(schema, Schema)
        errors = check_bounds(document, context.variables or {})
        if not errors and not self._is_known:
            rules = (*context.validation_rules, MaxIntrospectionDepthRule)
            errors = validate(schema._schema, document, rules, max_errors=_MOST_ERRORS)
            if not errors:
                self._documents.keep(context.query or "", document)
        context.pre_execution_errors = errors
        yield
