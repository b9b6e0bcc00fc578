"""Faults that are put in on purpose."""

from typing import Any

import grpc

from mesh.config.document.routing import Fault
from mesh.xds import names
from mesh.xds.resources.resource import any_of
from mesh.xds.resources.values import fraction, header_matcher, seconds

_FAULT = "extensions.filters.http.fault.v3.HTTPFault"

FAULT_FILTER = {"name": names.FAULT_FILTER, "typed_config": any_of(_FAULT)}
"""The filter, which does nothing but what routes tell it."""


def is_meant(fault: Fault | None, caller: str) -> bool:
    """True when the fault is for requests of `caller`."""
    return fault is not None and (not fault.callers or caller in fault.callers)


def build_fault(fault: Fault) -> dict[str, Any]:
    """The fault of one route, for its typed_per_filter_config."""
    literal: dict[str, Any] = {}
    if fault.delay is not None:
        literal["delay"] = {
            "fixed_delay": seconds(fault.delay.duration),
            "percentage": fraction(fault.delay.percent),
        }
    if fault.abort is not None:
        abort: dict[str, Any] = {"percentage": fraction(fault.abort.percent)}
        if fault.abort.grpc is not None:
            abort["grpc_status"] = grpc.StatusCode[fault.abort.grpc].value[0]
        else:
            abort["http_status"] = fault.abort.http
        literal["abort"] = abort
    if fault.headers:
        literal["headers"] = [header_matcher(name, match) for name, match in sorted(fault.headers.items())]
    return {names.FAULT_FILTER: any_of(_FAULT, literal)}
