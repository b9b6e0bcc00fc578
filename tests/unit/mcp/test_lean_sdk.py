"""The SDK without its servers: lean until somebody needs more, and then whole."""

import subprocess
import sys

LEAN = """
import sys
import mesh.mcp
heavy = [name for name in ("mcp.server", "starlette", "uvicorn", "httpx2") if name in sys.modules]
assert not heavy, heavy
import mcp
assert mcp.Client.__name__ == "Client"
from mcp import ClientSession, types
from mcp.client import Client
assert Client is mcp.Client
assert "mcp.server" in sys.modules
import mcp.client.session
assert mcp.client.session.ClientSession is ClientSession
try:
    mcp.no_such_name
except AttributeError:
    pass
else:
    raise AssertionError
"""
WHOLE_FIRST = "import mcp; client = mcp.Client; import mesh.mcp; assert mcp.Client is client"


def test_the_bridge_imports_no_server_and_the_sdk_stays_whole() -> None:
    for script in (LEAN, WHOLE_FIRST):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
