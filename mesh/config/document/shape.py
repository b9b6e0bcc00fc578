"""The form of the document: what stands at a path, read out of the models."""

import inspect
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from mesh.config.document.models import MeshDocument
from mesh.config.document.values import HeaderMatch, Names, Text


def fields_at(path: Sequence[str | int]) -> Collection[str]:
    """The names of the fields that a mapping at `path` may have; none where any key may stand, or nothing."""
    annotation: Any = MeshDocument
    for step in path:
        annotation = _below(annotation, step)
    models = [form for form in _forms(annotation) if _is_model(form)]
    if HeaderMatch in models:
        models.append(Text)
    return sorted({name for model in models for name in model.model_fields})


def without_nulls(values: Mapping[str, Any], annotation: Any = MeshDocument) -> dict[str, Any]:
    """Take out keys whose value is null, unless null is what the field may be.

    That is how a layer takes away what a lower one says: an entry of a mapping is gone, a field is at its default.
    """
    return {
        key: _cleaned(value, _below(annotation, key))
        for key, value in values.items()
        if value is not None or _may_be_null(annotation, key)
    }


def _cleaned(value: Any, annotation: Any) -> Any:
    if isinstance(value, Mapping):
        return without_nulls(value, annotation)
    if isinstance(value, list):
        return [_cleaned(item, _below(annotation, 0)) for item in value]
    return value


def _may_be_null(annotation: Any, key: str) -> bool:
    for form in _forms(annotation):
        if get_origin(form) is Names:
            return False
        if _is_model(form) and key in form.model_fields:
            return form.model_fields[key].default is None
    return True


def _below(annotation: Any, step: str | int) -> Any:
    for form in _forms(annotation):
        if _is_model(form):
            if step in form.model_fields:
                return form.model_fields[step].annotation
        elif get_origin(form) in (Names, tuple):
            return get_args(form)[0]
    return None


def _forms(annotation: Any) -> Iterator[Any]:
    """The alternatives of an annotation, without what only constrains them."""
    if get_origin(annotation) is Annotated:
        yield from _forms(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for each in get_args(annotation):
            yield from _forms(each)
    else:
        yield annotation


def _is_model(form: Any) -> bool:
    return inspect.isclass(form) and issubclass(form, BaseModel)
