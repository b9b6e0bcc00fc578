"""gRPC ignores options that it does not know, and a connection that breaks every minute is easily overlooked."""

import re
from pathlib import Path

import pytest
from grpc._cython import cygrpc

import mesh

ROOM = Path(mesh.__file__).parent
NAMES = sorted(
    {name for file in ROOM.rglob("*.py") for name in re.findall(r'\("(grpc\.[a-z0-9_.]+)", ', file.read_text())}
)
KNOWN = Path(cygrpc.__file__).read_bytes()


def test_there_are_options():
    assert "grpc.keepalive_time_ms" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_grpc_knows_each_option_by_its_name(name):
    assert name.encode() + b"\0" in KNOWN
