"""Who may read and change the mesh document."""

import contextlib
import getpass
import json
import stat

import pytest

from mesh.config import MeshSettings
from mesh.errors import InvalidInput, PermissionDenied
from mesh.model import SpiffeId
from mesh.rpc.context import CallContext, current_call
from services.control_plane.audit import Audit
from services.control_plane.config_access import access_by_certificate, access_by_socket

ADMIN = SpiffeId("mesh.test", "default", "operations")


@contextlib.contextmanager
def called_by(caller):
    token = current_call.set(CallContext("/a.B/C", "1", caller, None))
    try:
        yield
    finally:
        current_call.reset(token)


def test_an_identity_that_is_named_may():
    with called_by(ADMIN):
        assert access_by_certificate([ADMIN])() == "spiffe://mesh.test/ns/default/svc/operations"


@pytest.mark.parametrize(
    "caller", [None, SpiffeId("mesh.test", "default", "echo"), SpiffeId("mesh.test", "x", "operations")]
)
def test_any_other_member_may_neither_read_nor_change(caller):
    with called_by(caller), pytest.raises(PermissionDenied, match="MESH_CONFIG_ADMINS"):
        access_by_certificate([ADMIN])()


def test_nobody_may_by_default():
    assert MeshSettings.from_environment({}).config_admins == ()
    with called_by(ADMIN), pytest.raises(PermissionDenied):
        access_by_certificate(())()


def test_who_can_open_the_socket_is_the_account_that_owns_it(tmp_path):
    assert access_by_socket(tmp_path)() == f"operator {getpass.getuser()}"


def test_an_admin_that_is_no_identity_is_named_at_the_start():
    with pytest.raises(InvalidInput) as caught:
        MeshSettings.from_environment({"MESH_CONFIG_ADMINS": f"{ADMIN}, operations"})
    assert caught.value.field == "MESH_CONFIG_ADMINS"
    found = MeshSettings.from_environment({"MESH_CONFIG_ADMINS": f"{ADMIN},{ADMIN}2"})
    assert found.config_admins == (ADMIN, SpiffeId("mesh.test", "default", "operations2"))


async def test_the_audit_is_appended_for_its_owner_only(tmp_path):
    audit = Audit(tmp_path / "audit.jsonl")
    await audit.note("apply", who="ann", revision=2, decision="active", reason="a\nb\ud800")
    await audit.note("undo", who="control-plane", revision=2, decision="rolled-back")
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["action"] for line in lines] == ["apply", "undo"]
    assert stat.S_IMODE((tmp_path / "audit.jsonl").stat().st_mode) == 0o600


async def test_an_audit_that_cannot_be_written_stops_nothing(tmp_path):
    await Audit(tmp_path).note("undo", who="control-plane", revision=2, decision="rolled-back")
