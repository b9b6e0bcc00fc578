"""Logs, traces and metrics of one process.

    configure_logs ──> JSON lines on stderr, each with the correlation id and the trace id of its call
    open_telemetry ──> OpenTelemetry providers that export by OTLP, only where an endpoint is configured

May import model and below.
"""

from mesh.telemetry.logs import configure_logs, correlation_id, get_logger
from mesh.telemetry.providers import is_tracing, open_telemetry

__all__ = ["configure_logs", "correlation_id", "get_logger", "is_tracing", "open_telemetry"]
