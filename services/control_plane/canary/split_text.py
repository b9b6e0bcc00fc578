"""One split in the text of a mesh document, all other lines, comments and order as they were.

The operator's layer is text that people wrote. Writing it anew from values would lose their comments, so the place of
the split is looked up in YAML's node tree and only that is replaced. What comes out is read again: if it does not mean
what it should (anchors, merge keys and other rare forms), the document is written anew after all.
"""

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from mesh.errors import InvalidInput


def with_split(text: str, service: str, split: Mapping[str, int]) -> str:
    """The document with `services.SERVICE.split` set; raises InvalidInput when it is no document."""
    wanted = _wanted(_load(text), service, split)
    edited = _edit(text, service, "{" + ", ".join(f"{target}: {weight}" for target, weight in split.items()) + "}")
    if edited is not None:
        try:
            if yaml.safe_load(edited) == wanted:
                return edited
        except yaml.YAMLError:
            pass
    return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)


def _load(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise _no_document(str(err).splitlines()[0]) from err
    services = (value or {}).get("services") if isinstance(value, dict | None) else value
    if not isinstance(value, dict | None) or not isinstance(services, dict | None):
        raise _no_document("it has another form")
    return value or {}


def _wanted(value: Any, service: str, split: Mapping[str, int]) -> Any:
    wanted = copy.deepcopy(value)
    services = wanted.get("services") or {}
    of_service = services.get(service) or {}
    if not isinstance(of_service, dict):
        raise _no_document(f"services.{service} is no mapping")
    return {**wanted, "services": {**services, service: {**of_service, "split": dict(split)}}}


def _edit(text: str, service: str, split: str) -> str | None:
    """The text with the split in its place; None where that is not simple."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None or (isinstance(root, yaml.ScalarNode) and root.value == ""):
        return f"{_ending_with_newline(text)}services:\n  {service}:\n    split: {split}\n"
    services = _value(root, "services")
    if services is None:
        return f"{_ending_with_newline(text)}services:\n  {service}:\n    split: {split}\n"
    of_service = _value(services, service)
    if of_service is None:
        return _insert(text, services, f"{service}: {{split: {split}}}")
    found = _value(of_service, "split")
    if found is None:
        return _insert(text, of_service, f"split: {split}")
    return _replace(text, found, split)


def _value(node: yaml.Node, key: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for name, value in pairs if name.value == key), None)


def _insert(text: str, node: yaml.Node, entry: str) -> str | None:
    """The text with one more entry, the first one of a mapping."""
    if not isinstance(node, yaml.MappingNode):
        return None
    start = node.start_mark.index
    if node.flow_style:
        comma = ", " if node.value else ""
        return f"{text[: start + 1]}{entry}{comma}{text[start + 1 :]}"
    return f"{text[:start]}{entry}\n{' ' * node.start_mark.column}{text[start:]}"


def _replace(text: str, node: yaml.Node, new: str) -> str:
    end = node.end_mark.index
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        # A block ends where the next one begins; what stands between belongs to that.
        end = node.value[-1][1].end_mark.index
        return f"{text[: node.start_mark.index]}{new}{text[end:]}"
    return f"{text[: node.start_mark.index]}{new}{text[end:]}"


def _ending_with_newline(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _no_document(why: str) -> InvalidInput:
    return InvalidInput(
        f"The operator's layer is no mesh document: {why}.", field="document", fix="Correct it with `meshctl apply`."
    )
