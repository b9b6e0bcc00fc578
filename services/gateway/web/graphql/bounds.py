"""What a query may ask for at most: how deep, how many other names, and what it costs.

Measured before it is validated, and each fragment once: rules of graphql-core, and those that come with strawberry,
follow a fragment as often as it is named, which a few fragments that name each other twice make endless.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
)

from services.gateway.web.graphql.limits import MOST_IN_PAGE, PAGE

DEEPEST = 8
MOST_ALIASES = 30
MOST_COST = 5_000

_PAGES = frozenset({"services", "agents", "tools", "tasks", "revisions"})
"""Fields that give as many items as `first` says."""
_LISTS = {"instances": 5, "skills": 10}
"""Fields that give a list, with what is taken for its length."""
_ASKS = frozenset({"tools", "card", "tasks", "revisions", "revision", "taskUpdates"})
"""Fields for which another service is asked."""
_ASKING = 25
_MOST_NESTED = 60
"""How far fragments and fields may lead into one another; the interpreter's stack holds far more."""
_HUGE = 1 << 40


class _Size(NamedTuple):
    depth: int = 0
    aliases: int = 0
    cost: int = 0


def check_bounds(document: DocumentNode, variables: Mapping[str, Any]) -> list[GraphQLError]:
    """What is too much about the operations of a document."""
    try:
        sizes = _Measure(document, variables).sizes()
    except _TooNestedError:
        return [_too_much("QUERY_TOO_DEEP", f"The query is nested more than {_MOST_NESTED} times.", "Nest it less.")]
    size = _Size(*(max(values) for values in zip(_Size(), *sizes, strict=True)))
    errors = []
    if size.depth > DEEPEST:
        summary = f"The query is {size.depth} deep, more than {DEEPEST}."
        errors.append(_too_much("QUERY_TOO_DEEP", summary, "Ask in several queries."))
    if size.aliases > MOST_ALIASES:
        summary = f"The query has {size.aliases} aliases, more than {MOST_ALIASES}."
        errors.append(_too_much("QUERY_TOO_MANY_ALIASES", summary, "Ask in several queries."))
    if size.cost > MOST_COST:
        summary = f"The query costs {size.cost}, more than {MOST_COST}."
        errors.append(_too_much("QUERY_TOO_COSTLY", summary, "Ask for smaller pages (first) or fewer fields."))
    return errors


class _TooNestedError(Exception):
    pass


class _Measure:
    """Measures one document with the values of its variables."""

    def __init__(self, document: DocumentNode, variables: Mapping[str, Any]) -> None:
        self._document = document
        self._variables = variables
        self._fragments = {it.name.value: it for it in document.definitions if isinstance(it, FragmentDefinitionNode)}
        self._measured: dict[str, _Size] = {}
        self._defaults = {
            variable.variable.name.value: int(variable.default_value.value)
            for it in document.definitions
            if isinstance(it, OperationDefinitionNode)
            for variable in it.variable_definitions or ()
            if isinstance(variable.default_value, IntValueNode)
        }

    def sizes(self) -> list[_Size]:
        """Of all operations, and of fragments that none of them uses, too: they are validated all the same."""
        return [
            self._of_definition(it, 0)
            for it in self._document.definitions
            if isinstance(it, OperationDefinitionNode | FragmentDefinitionNode)
        ]

    def _of_definition(self, definition: OperationDefinitionNode | FragmentDefinitionNode, nested: int) -> _Size:
        size = self._of_selections(definition.selection_set, nested)
        # Tools ask for the schema in one deep query; graphql-core has a rule of its own against abuse of that.
        is_schema = isinstance(definition, FragmentDefinitionNode) and _is_meta(definition.type_condition.name.value)
        return size._replace(depth=0) if is_schema else size

    def _of_selections(self, selections: SelectionSetNode | None, nested: int) -> _Size:
        if nested > _MOST_NESTED:
            raise _TooNestedError
        depth, aliases, cost = 0, 0, 0
        for node in selections.selections if selections is not None else ():
            if isinstance(node, FieldNode):
                size = self._of_field(node, nested + 1)
            elif isinstance(node, FragmentSpreadNode):
                size = self._of_fragment(node.name.value, nested + 1)
            else:
                size = self._of_selections(getattr(node, "selection_set", None), nested + 1)
            depth, aliases, cost = max(depth, size.depth), aliases + size.aliases, cost + size.cost
        return _Size(depth, min(aliases, _HUGE), min(cost, _HUGE))

    def _of_field(self, node: FieldNode, nested: int) -> _Size:
        name = node.name.value
        below = self._of_selections(node.selection_set, nested)
        depth = 0 if _is_meta(name) else below.depth + 1
        own = _ASKING if name in _ASKS else 1
        return _Size(depth, below.aliases + (node.alias is not None), own + self._items(node) * below.cost)

    def _of_fragment(self, name: str, nested: int) -> _Size:
        if name not in self._measured:
            # Should it lead to itself: that is refused by another rule.
            self._measured[name] = _Size()
            fragment = self._fragments.get(name)
            self._measured[name] = self._of_definition(fragment, nested) if fragment is not None else _Size()
        return self._measured[name]

    def _items(self, node: FieldNode) -> int:
        name = node.name.value
        if name not in _PAGES:
            return _LISTS.get(name, 1)
        first: Any = PAGE
        for argument in node.arguments or ():
            if argument.name.value == "first":
                first = self._value(argument.value)
        return min(max(first, 1), MOST_IN_PAGE) if isinstance(first, int) else MOST_IN_PAGE

    def _value(self, node: Any) -> Any:
        if isinstance(node, VariableNode):
            return self._variables.get(node.name.value, self._defaults.get(node.name.value, PAGE))
        return int(node.value) if isinstance(node, IntValueNode) else None


def _is_meta(name: str) -> bool:
    """Whether a field or a type belongs to the schema's description of itself."""
    return name.startswith("__")


def _too_much(reason: str, summary: str, fix: str) -> GraphQLError:
    return GraphQLError(summary, extensions={"reason": reason, "fix": fix})
