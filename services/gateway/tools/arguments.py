"""Whether arguments of a tool are what a rule wants them to be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.config.document.tools import ArgumentRule
from mesh.errors import InvalidInput

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class ArgumentCheck:
    """One argument; `name` has dots where it leads into objects, `pattern` is compiled."""

    name: str
    rule: ArgumentRule
    pattern: Any

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raise InvalidInput, which names the argument and says what it must be. Values are not repeated."""
        rule, value = self.rule, _find(arguments, self.name)
        if value is _ABSENT:
            if rule.required:
                raise self._refused("is missing", "Give it.")
            return
        if rule.forbidden:
            raise self._refused("must not be given", "Leave it out.")
        if rule.values and not any(value == each and type(value) is type(each) for each in rule.values):
            raise self._refused("has another value than it may have", f"Give one of {_words(rule.values)}.")
        if self.pattern is not None and not (isinstance(value, str) and self.pattern.search(value)):
            raise self._refused("does not look as it must", f"Give a text that fits {rule.pattern}.")
        if rule.max_length is not None and isinstance(value, str | list) and len(value) > rule.max_length:
            raise self._refused("is too long", f"Give at most {rule.max_length}.")
        self._check_number(value)

    def _check_number(self, value: Any) -> None:
        least, most = self.rule.minimum, self.rule.maximum
        if least is None and most is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._refused("is no number", "Give a number.")
        # So that NaN, which is neither below nor above anything, does not pass.
        if least is not None and not value >= least:
            raise self._refused("is too small", f"Give at least {least:g}.")
        if most is not None and not value <= most:
            raise self._refused("is too large", f"Give at most {most:g}.")

    def _refused(self, what: str, fix: str) -> InvalidInput:
        return InvalidInput(
            f"The argument {self.name} {what}: a rule of this mesh says so.",
            reason="ARGUMENT_REFUSED",
            field=f"params.arguments.{self.name}",
            fix=fix,
        )


def _find(arguments: Mapping[str, Any], name: str) -> Any:
    # A name that has dots itself comes first.
    if name in arguments:
        return arguments[name]
    value: Any = arguments
    for step in name.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return _ABSENT
        value = value[step]
    return value


def _words(values: tuple[str | int | float | bool, ...]) -> str:
    return ", ".join(repr(value) for value in values)
