"""The MCP server: which tools there are."""

from services.tool_server import ToolServer, build_tool
from services.utilities.dates import add_to_date, calendar_info, days_between
from services.utilities.encoding import decode, encode, hash_text
from services.utilities.json_query import JsonQueries
from services.utilities.texts import diff_texts, text_statistics
from services.utilities.units import convert_units
from services.utilities.zones import convert_time, current_time, list_time_zones

__all__ = ["build_server"]

_INSTRUCTIONS = "Everyday tools. Dates are YYYY-MM-DD, times ISO 8601, time zones IANA names such as Europe/Paris."
_TITLES = {
    convert_time: "Convert a time between zones",
    list_time_zones: "List time zones",
    convert_units: "Convert units",
    hash_text: "Hash a text",
    encode: "Encode a text",
    decode: "Decode a text",
    text_statistics: "Text statistics",
    diff_texts: "Compare texts",
    add_to_date: "Add to a date",
    days_between: "Days between dates",
    calendar_info: "About a date",
}


def build_server(*, version: str = "") -> ToolServer:
    """A server of all the tools."""
    tools = [build_tool(function, title) for function, title in _TITLES.items()]
    tools.insert(0, build_tool(current_time, "Current time"))
    tools.append(build_tool(JsonQueries().query_json, "Query JSON with jq"))
    return ToolServer("utilities", tools, title="Everyday tools", instructions=_INSTRUCTIONS, version=version)
