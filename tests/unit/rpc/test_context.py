"""Who has called, by Envoy's word."""

import pytest

from mesh.errors import FailedPrecondition
from mesh.model import SpiffeId
from mesh.rpc import call_context
from mesh.rpc.context import parse_caller

CALLER = SpiffeId("agentmesh.local", "default", "caller")


@pytest.mark.parametrize(
    ("header", "caller"),
    [
        (f"By=spiffe://agentmesh.local/ns/default/svc/echo;Hash=ab;URI={CALLER}", CALLER),
        (f"Hash=ab;URI={CALLER};DNS=x", CALLER),
        # The nearest proxy's element is the last one.
        (f"Hash=1;URI=spiffe://agentmesh.local/ns/default/svc/other,Hash=2;URI={CALLER}", CALLER),
        # A subject that looks like another element is a quoted text.
        (f'Subject="CN=a;URI=spiffe://agentmesh.local/ns/default/svc/root,O=b";URI={CALLER}', CALLER),
        ("", None),
        ("Hash=ab", None),
        (f"Hash=1;URI={CALLER},Hash=2", None),
        (f"URI={CALLER};URI=spiffe://agentmesh.local/ns/default/svc/other", None),
        ("URI=https://example.org", None),
        ("URI", None),
        (f'Subject="unclosed;URI={CALLER}', None),
    ],
)
def test_the_caller_is_the_one_identity_of_the_last_element(header, caller):
    assert parse_caller(header) == caller


def test_outside_of_a_handler_there_is_no_call():
    with pytest.raises(FailedPrecondition):
        call_context()
