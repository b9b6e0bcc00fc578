"""OpenTelemetry's providers for one process.

Without OTEL_EXPORTER_OTLP_ENDPOINT nothing of the SDK is imported: API calls then are no-ops, and trace context still
travels, because mesh.rpc passes it on. The SDK with its OTLP exporter costs about 20 MB of memory.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace

_EXPORT_TIMEOUT_SECONDS = 5
_METRIC_INTERVAL_MILLIS = 10_000


def is_tracing() -> bool:
    """Whether spans are recorded in this process: a real tracer provider has been set."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)


@contextmanager
def open_telemetry(service: str) -> Iterator[None]:
    """Export traces and metrics of `service` while the block runs, and flush them at its end.

    Where and whether follows from the standard OTEL_* environment variables; without OTEL_EXPORTER_OTLP_ENDPOINT
    nothing is exported. Once per process: OpenTelemetry's providers cannot be replaced. The flush blocks for at most
    some seconds when the collector is away.
    """
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        yield
        return
    # Imported here for the memory, see above.
    from opentelemetry import metrics
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    attributes = {"service.name": service}
    instance = os.environ.get("MESH_INSTANCE")
    if instance:
        attributes["service.instance.id"] = instance
    resource = Resource.create(attributes)
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=_EXPORT_TIMEOUT_SECONDS)))
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(timeout=_EXPORT_TIMEOUT_SECONDS),
        export_interval_millis=float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", _METRIC_INTERVAL_MILLIS)),
    )
    meters = MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    try:
        yield
    finally:
        tracers.shutdown()
        meters.shutdown(timeout_millis=_EXPORT_TIMEOUT_SECONDS * 1000)
