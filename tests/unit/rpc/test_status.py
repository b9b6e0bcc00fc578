"""Errors travel: MeshError -> google.rpc.Status -> MeshError."""

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from mesh import errors
from mesh.errors import MeshError
from mesh.rpc import error_from_rpc
from mesh.rpc.status import DETAILS_KEY, code_of, error_to_status

CLASSES = [
    errors.InvalidInput,
    errors.NotFound,
    errors.AlreadyExists,
    errors.FailedPrecondition,
    errors.OutOfRange,
    errors.Unauthenticated,
    errors.PermissionDenied,
    errors.ResourceExhausted,
    errors.Unavailable,
    errors.DeadlineExceeded,
    errors.Canceled,
    errors.Unimplemented,
    errors.Internal,
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


def over_the_wire(error: MeshError) -> MeshError:
    """What a client makes of an error that a server of "far" has raised."""
    status = error_to_status(error, service="far", correlation_id="c-1")
    trailing = grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString()))
    return error_from_rpc(grpc.aio.AioRpcError(code_of(error), grpc.aio.Metadata(), trailing, status.message))


@pytest.mark.parametrize("kind", CLASSES)
@given(summary=TEXTS.filter(bool), field=TEXTS, fix=TEXTS)
def test_class_and_words_arrive(kind, summary, field, fix):
    sent = kind(summary, reason="SOME_REASON", field=field, fix=fix)
    arrived = over_the_wire(sent)
    assert type(arrived) is kind
    assert (arrived.summary, arrived.reason, arrived.field, arrived.fix) == (summary, "SOME_REASON", field, fix)
    assert arrived.service == "far"
    assert arrived.retryable == sent.retryable


def test_a_long_or_broken_text_is_cut_so_that_it_fits_into_headers():
    error = errors.InvalidInput("x" * 100_000 + "\ud800", field="f" * 10_000, fix="y" * 100_000)
    status = error_to_status(error)
    assert status.ByteSize() < 8192
    assert over_the_wire(error).summary.startswith("xxx")


def test_a_status_without_our_details_is_read_by_its_code():
    plain = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata(), "no such thing")
    error = error_from_rpc(plain)
    assert isinstance(error, errors.NotFound)
    assert "no such thing" in str(error)


@given(st.binary(max_size=200))
def test_garbage_in_the_details_is_no_reason_to_fail(garbage):
    trailing = grpc.aio.Metadata((DETAILS_KEY, garbage))
    error = error_from_rpc(grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailing, "gone"))
    assert isinstance(error, MeshError)


def test_bad_input_names_its_field_in_the_standard_detail_and_a_retryable_error_says_when():
    status = error_to_status(errors.InvalidInput("wrong", field="rate"))
    violations = error_details_pb2.BadRequest()
    assert any(packed.Unpack(violations) for packed in status.details)
    assert violations.field_violations[0].field == "rate"
    retry = error_details_pb2.RetryInfo()
    assert any(packed.Unpack(retry) for packed in error_to_status(errors.Unavailable("away")).details)


def test_the_faults_of_a_document_are_violations_of_fields():
    faults = [errors.Fault("f.yaml", line, f"services.s{line}", "is bad" * 200) for line in range(1, 40)]
    status = error_to_status(errors.DocumentInvalid(faults))
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details if detail.Is(bad.DESCRIPTOR))
    assert [violation.field for violation in bad.field_violations] == ["services.s1", "services.s2", "services.s3"]
    assert bad.field_violations[0].description.startswith("f.yaml, line 1: is bad")
    assert status.ByteSize() * 4 / 3 < 8000
