import pytest

from mesh.discovery import HealthCheck
from mesh.discovery.embedded.record import Record
from mesh.model import Address, Instance


@pytest.fixture
def record():
    """Make a record; facts of the instance, of the check and the lease may be named."""

    def make(instance_id="a-1", *, service="a", port=1000, lease=15.0, deregister_after=60.0, **facts):
        instance = Instance(service, instance_id, "127.0.0.1", port, **facts)
        check = HealthCheck(Address("127.0.0.1", port), use_tls=True, deregister_after=deregister_after)
        return Record(instance, check, lease)

    return make
