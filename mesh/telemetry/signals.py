"""Traces and metrics through OpenTelemetry, exported only when an operator named a collector.

Without a collector the SDK is not even imported: it costs some 10 MB. W3C trace context is carried on all the same.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def is_exporting() -> bool:
    """True when spans and metrics leave this process."""
    return bool(os.environ.get(_ENDPOINT))


@contextmanager
def open_telemetry(service: str) -> Iterator[None]:
    """Export spans and metrics while the context is open; flush them at its end.

    The collector is that of OTEL_EXPORTER_OTLP_ENDPOINT (gRPC); all other OTEL_EXPORTER_OTLP_* variables apply.
    """
    if not is_exporting():
        yield
        return
    # Imported here because of their memory, see above.
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": service})
    traces = TracerProvider(resource=resource)
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(), export_interval_millis=10_000)
    meters = MeterProvider(resource=resource, metric_readers=[reader])
    trace.set_tracer_provider(traces)
    metrics.set_meter_provider(meters)
    try:
        yield
    finally:
        traces.shutdown()
        meters.shutdown(timeout_millis=5_000)
