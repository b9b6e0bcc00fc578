"""meshctl against a running mesh, as a shell sees it: output and exit status."""

import json
import subprocess
import sys
import urllib.request

import pytest

UNREACHABLE = 3
USAGE = 2


def test_status_tells_every_service_healthy_and_where_the_mesh_is_reached(mesh):
    status = mesh.json("status")
    assert status["ready"] is True
    found = {
        service["name"]: (service["kind"], service["instances"], service["healthy"]) for service in status["services"]
    }
    assert (
        found.items()
        >= {
            "gateway": ("gateway", 1, 1),
            "financial": ("mcp", 1, 1),
            "utilities": ("mcp", 1, 1),
            "von-neumann": ("agent", 1, 1),
        }.items()
    )
    assert status["endpoints"]["gateway"] == f"http://{mesh.gateway}"
    with urllib.request.urlopen(status["endpoints"]["ui"], timeout=10) as page:
        assert b"Consul" in page.read()


def test_tools_and_skills_are_listed_and_known_to_the_registry(mesh):
    tools = {tool["name"] for tool in mesh.json("tools", "financial")["financial"]}
    assert {"npv", "irr", "amortization_schedule", "option_price", "portfolio_statistics"} <= tools
    services = {service["name"]: service for service in mesh.json("status")["services"]}
    assert set(services["financial"]["capabilities"]) == tools
    (card,) = mesh.json("agents")
    assert card["name"] == "von-neumann"
    assert set(services["von-neumann"]["capabilities"]) == {skill["id"] for skill in card["skills"]}


def test_an_agent_calls_a_tool_through_the_mesh(mesh):
    value = {"rate": 0.1, "cash_flows": [-1000, 400, 500, 600]}
    result = mesh.json("call", "von-neumann", "project-valuation", json.dumps(value))
    assert result["is_error"] is False
    (valuation,) = result["output"]
    assert valuation["npv"] == pytest.approx(-1000 + 400 / 1.1 + 500 / 1.1**2 + 600 / 1.1**3)
    irr = valuation["irr"]
    assert -1000 + 400 / (1 + irr) + 500 / (1 + irr) ** 2 + 600 / (1 + irr) ** 3 == pytest.approx(0, abs=1e-6)


def test_a_wrong_argument_is_an_error_of_the_tool_that_names_it(mesh):
    done = mesh.meshctl("call", "financial", "npv", '{"rate": -2, "cash_flows": [1]}')
    assert done.returncode == 1
    assert "rate" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("call", "finacial", "npv"), 1, "Did you mean financial"),
        (("call", "financial", "nvp"), 1, "Did you mean npv"),
        (("call", "von-neumann", "project-valuatio"), 1, "Did you mean project-valuation"),
        (("call", "financial", "npv", "{"), USAGE, "not JSON"),
        (("call", "financial", "npv", "rate"), USAGE, "NAME=VALUE"),
        (("tools", "nobody"), 1, "There is no service 'nobody'"),
        (("no-such-command",), USAGE, "No such command"),
    ],
)
def test_a_mistake_is_answered_with_its_cause_and_the_fix(mesh, arguments, status, words):
    done = mesh.meshctl(*arguments)
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_every_proxy_has_accepted_what_it_was_sent(mesh):
    proxies = mesh.json("proxies")
    assert {proxy["node_id"].partition("/")[0] for proxy in proxies} >= {"gateway", "financial", "von-neumann"}
    mesh.wait_for(lambda: unaccepted(mesh.json("proxies")) == [], timeout=10)


def unaccepted(proxies):
    """What has been sent and not accepted, or has been refused."""
    return [
        (proxy["node_id"], resources)
        for proxy in proxies
        for resources in proxy["resources"]
        if resources.get("acked_version") != resources.get("sent_version") or "nack_message" in resources
    ]


def test_certs_are_listed_without_keys(mesh):
    done = mesh.meshctl("certs", "--output", "json")
    identities = {certificate["spiffe_id"] for certificate in json.loads(done.stdout)}
    assert "spiffe://agentmesh.local/ns/default/svc/financial" in identities
    assert "PRIVATE" not in done.stdout


def test_doctor_finds_the_mesh_well(mesh):
    done = mesh.meshctl("doctor")
    assert done.returncode == 0, done.stdout
    assert "WRONG" not in done.stdout


def test_a_second_up_is_refused(mesh):
    done = mesh.meshctl("up")
    assert done.returncode == 1
    assert f"process {mesh.up.pid}" in done.stderr


def test_up_names_who_holds_a_port(mesh, mesh_environment, tmp_path):
    env = mesh_environment(tmp_path) | {"MESH_GATEWAY_BIND": mesh.gateway}
    (tmp_path / "mesh.yaml").write_text("services: {}\n")
    command = (sys.executable, "-m", "services.meshctl.main", "up", "--file", str(tmp_path / "mesh.yaml"))
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"{mesh.gateway} is taken by envoy" in done.stderr
    assert "MESH_GATEWAY_BIND" in done.stderr


def test_without_a_mesh_commands_say_how_to_start_one(mesh_environment, tmp_path):
    env = mesh_environment(tmp_path)
    command = (sys.executable, "-m", "services.meshctl.main")
    for arguments in (("status",), ("tools",), ("call", "financial", "npv")):
        done = subprocess.run([*command, *arguments], env=env, capture_output=True, text=True, timeout=30)
        assert done.returncode == UNREACHABLE
        assert "make up" in done.stderr
    done = subprocess.run([*command, "down"], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda state: (state / "ca").write_text("a file, not a folder"), "ca"),
        (lambda state: (state / "declarations.json").write_text('{"version": 99, "services": {}}'), "version is 99"),
        (lambda state: (state / "declarations.json").write_text("{half of a fi"), "declarations.json"),
    ],
)
def test_up_names_what_is_wrong_with_its_state_directory(mesh_environment, tmp_path, spoil, words):
    spoil(tmp_path)
    command = (sys.executable, "-m", "services.meshctl.main", "up")
    done = subprocess.run(command, env=mesh_environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_up_needs_a_state_directory_that_can_be_written(mesh_environment, tmp_path):
    env = mesh_environment(tmp_path) | {"MESH_STATE_DIR": "/proc/mesh"}
    command = (sys.executable, "-m", "services.meshctl.main", "up")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "/proc/mesh" in done.stderr
    assert "MESH_STATE_DIR" in done.stderr


def test_the_demo_takes_its_tour_and_stops_what_it_started(mesh_environment, short_dir):
    command = (sys.executable, "-m", "services.meshctl.main", "demo")
    done = subprocess.run(command, env=mesh_environment(short_dir), capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "That was the tour." in done.stdout
    assert not (short_dir / "running.json").exists()
