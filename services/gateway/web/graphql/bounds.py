"""What a query may ask for at most: its depth, its aliases, its words, and what it costs."""

from collections.abc import Callable, Iterator
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    IntValueNode,
    ValidationRule,
)
from strawberry.extensions import (
    AddValidationRules,
    MaxAliasesLimiter,
    MaxTokensLimiter,
    QueryDepthLimiter,
    SchemaExtension,
)

DEEPEST = 10
MOST_COST = 5_000
_MOST_ALIASES = 30
_MOST_TOKENS = 2_000
_DEFAULT_PAGE = 50
_ASKING = 25
"""What a field costs that asks another service."""
_ASKS = {"tools", "skills", "tasks", "revisions"}


class CostRule(ValidationRule):
    """Refuses what costs too much: each field 1, those that ask services 25, below a page as often as it has items."""

    def enter_document(self, node: DocumentNode, *_: Any) -> None:
        fragments = {it.name.value: it for it in node.definitions if isinstance(it, FragmentDefinitionNode)}
        for definition in node.definitions:
            if isinstance(definition, FragmentDefinitionNode):
                continue
            cost = _cost(definition, fragments, frozenset())
            if cost > MOST_COST:
                text = f"The query costs {cost}, more than {MOST_COST}. Ask for smaller pages or fewer fields."
                self.report_error(GraphQLError(text, [definition], extensions={"reason": "QUERY_TOO_COSTLY"}))


def build_extensions() -> list[Callable[[], SchemaExtension]]:
    """What makes the bounds, anew for each query."""
    return [
        lambda: QueryDepthLimiter(max_depth=DEEPEST),
        lambda: MaxAliasesLimiter(max_alias_count=_MOST_ALIASES),
        lambda: MaxTokensLimiter(max_token_count=_MOST_TOKENS),
        lambda: AddValidationRules([CostRule]),
    ]


def _cost(node: Any, fragments: dict[str, FragmentDefinitionNode], inside: frozenset[str]) -> int:
    if node.selection_set is None:
        return 0
    return sum(_cost_of(each, fragments, inside) for each in node.selection_set.selections)


def _cost_of(node: Any, fragments: dict[str, FragmentDefinitionNode], inside: frozenset[str]) -> int:
    if isinstance(node, FragmentSpreadNode):
        name = node.name.value
        fragment = fragments.get(name)
        # One that leads to itself is refused by another rule.
        return 0 if fragment is None or name in inside else _cost(fragment, fragments, inside | {name})
    if isinstance(node, InlineFragmentNode):
        return _cost(node, fragments, inside)
    own = _ASKING if node.name.value in _ASKS else 1
    return min(own + _items(node) * _cost(node, fragments, inside), 1 << 40)


def _items(node: FieldNode) -> int:
    """How many items a field gives: of pages as many as are asked for."""
    if node.name.value in ("services", "agents"):
        return max([*_first(node), 0]) or _DEFAULT_PAGE
    return 1


def _first(node: FieldNode) -> Iterator[int]:
    for argument in node.arguments or ():
        if argument.name.value == "first":
            yield int(argument.value.value) if isinstance(argument.value, IntValueNode) else _DEFAULT_PAGE
