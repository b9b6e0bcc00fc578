"""Structured logs: one JSON object per line on stderr.

Keys: ts, level, event, service, logger, correlation_id, trace_id, span_id, then the fields of the event. What the
standard library's `logging` gets from other packages comes out in the same form.
"""

import json
import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

import structlog
from opentelemetry import trace
from structlog.typing import FilteringBoundLogger, Processor

from mesh.errors import InvalidInput

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")
"""The correlation id of the call that is being handled; empty outside of calls."""

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_FIRST_KEYS = ("ts", "level", "event", "service", "logger", "correlation_id", "trace_id", "span_id")


class _StderrWriter:
    """Writes lines to whatever `sys.stderr` is at that moment.

    A log that cannot be written (the reader of the pipe has gone, the disk is full) must not fail the work.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = warn = error = critical = fatal = exception = log = msg


_TALKATIVE = ("httpx", "httpx2")
"""Packages that tell each request."""


def configure_logs(service: str, *, level: str = "info", is_for_foreign: bool = True) -> None:
    """Send the logs of this process to stderr as JSON lines of `service`, from `level` up.

    With `is_for_foreign` the logs of other packages, which use the standard library's `logging`, come out in the same
    form. May be called again, for example by tests; loggers that exist already follow. Raises InvalidInput for a level
    that is not debug, info, warning, error or critical.
    """
    threshold = _LEVELS.get(level.lower())
    if threshold is None:
        raise InvalidInput(
            f"{level!r} is not a log level.", field="level", fix=f"Use one of {', '.join(_LEVELS)}; see MESH_LOG_LEVEL."
        )
    enrich: list[Processor] = [
        structlog.stdlib.add_log_level,
        _ServiceAdder(service),
        _add_logger_name,
        _add_ids,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.format_exc_info,
    ]
    render: list[Processor] = [_order_keys, structlog.processors.JSONRenderer(serializer=_dump)]
    structlog.configure(
        processors=[*enrich, *render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_StderrWriter,
        cache_logger_on_first_use=False,
    )
    if is_for_foreign:
        _route_foreign(enrich, render, threshold)


def _route_foreign(enrich: list[Processor], render: list[Processor], threshold: int) -> None:
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *enrich],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )
    handler = _StdlibHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [other for other in root.handlers if not isinstance(other, _StdlibHandler)]
    root.addHandler(handler)
    # Other packages are talkative: their debug lines are for their developers, not for ours.
    root.setLevel(max(threshold, logging.INFO))
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `name`; may be made at import, before `configure_logs`.

    Until then lines of all levels go to stderr: structlog's own default is stdout, which is for a program's answers.
    """
    if not structlog.is_configured():
        configure_logs("", level="debug", is_for_foreign=False)
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


class _StdlibHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self._writer = _StderrWriter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except (TypeError, ValueError):
            # A record whose arguments do not fit its text; logging's own way would print a traceback.
            line = _dump({"level": record.levelname.lower(), "event": str(record.msg), "logger": record.name})
        self._writer.msg(line)


class _ServiceAdder:
    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if self._service:
            event.setdefault("service", self._service)
        return event


def _add_logger_name(logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # Both our writer and a logging.Logger have a name; a foreign record may come without a logger.
    event.setdefault("logger", getattr(logger, "name", ""))
    return event


def _add_ids(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    identifier = correlation_id.get()
    if identifier:
        event.setdefault("correlation_id", identifier)
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = f"{span.trace_id:032x}"
        event["span_id"] = f"{span.span_id:016x}"
    return event


def _order_keys(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    ordered = {key: event.pop(key) for key in _FIRST_KEYS if key in event}
    ordered.update(event)
    return ordered


def _dump(event: Any, **_: Any) -> str:
    return json.dumps(event, default=str, ensure_ascii=False, separators=(",", ":"))
