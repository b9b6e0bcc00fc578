from datetime import timedelta

from mesh.identity import CertificateAuthority, ClientTls
from mesh.model import SpiffeId

ME = SpiffeId("test.local", "default", "consul")


def test_the_certificate_is_another_one_from_half_life_on(tmp_path, clock):
    tls = ClientTls(authority(tmp_path, clock), ME, lifetime=timedelta(hours=1))
    first = tls.current
    clock.jump(minutes=29)
    assert tls.current is first
    clock.jump(minutes=1)
    assert tls.current is not first
    assert tls.current.spiffe_id == ME


def test_a_clock_that_was_set_back_makes_a_new_one(tmp_path, clock):
    tls = ClientTls(authority(tmp_path, clock), ME)
    first = tls.current
    clock.jump(minutes=-30)
    assert tls.current.issue_time < first.issue_time


def test_its_key_is_nowhere_on_disk(tmp_path, clock):
    known = authority(tmp_path, clock)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    ClientTls(known, ME).channel_credentials()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def authority(folder, clock):
    return CertificateAuthority.open(folder / "ca", trust_domain="test.local", clock=clock)
