import subprocess
import sys
from pathlib import Path

from services.tool_server import ToolServer

ROOT = Path(__file__).parents[4]
NAMES = {
    "add_to_date",
    "calendar_info",
    "convert_time",
    "convert_units",
    "current_time",
    "days_between",
    "decode",
    "diff_texts",
    "encode",
    "hash_text",
    "list_time_zones",
    "query_json",
    "text_statistics",
}


async def test_every_tool_has_schemas_and_a_description_and_says_that_it_only_reads(server: ToolServer) -> None:
    tools = await server.list_tools()
    assert {tool.name for tool in tools} == NAMES
    for tool in tools:
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is True
        assert tool.annotations.idempotent_hint is True
        assert tool.annotations.open_world_hint is False
        assert tool.title
        assert tool.description
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None
        assert tool.output_schema["properties"]


def test_the_server_starts_without_the_mesh_and_without_heavy_libraries() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import services.utilities.server, sys; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout.split()
    assert "services.utilities.server" in loaded
    assert [name for name in loaded if name.startswith("mesh.")] == []
    assert [name for name in ("agentmesh", "grpc", "pint", "jq", "dateutil", "numpy") if name in loaded] == []


def test_arguments_of_the_command_are_refused_with_its_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.utilities", "--port"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert done.stderr == "usage: python -m services.utilities\n"
