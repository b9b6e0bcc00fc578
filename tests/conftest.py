"""What holds for all tests."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

# Before any test imports grpc: it prepares the process for gRPC and child processes side by side.
from mesh.telemetry import get_logger

# The same examples in every run; `make test ARGS=--hypothesis-profile=random` looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None)
settings.load_profile("same")

get_logger(__name__)
_LOGS_AT_FIRST = structlog.get_config()


@pytest.fixture(autouse=True)
def logs_as_at_first() -> Iterator[None]:
    """Each test finds logging as the first one did, whatever level and form others have given it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.configure(**_LOGS_AT_FIRST)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder whose path is short enough for unix sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="am-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
