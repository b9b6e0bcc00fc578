import json

import pytest
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp_types import CallToolResult, TextContent

from services.financial.server import FinancialServer

TOOLS = {
    "npv": {"rate", "cash_flows"},
    "irr": {"cash_flows"},
    "mirr": {"cash_flows", "finance_rate", "reinvest_rate"},
    "amortization_schedule": {"principal", "annual_rate", "months"},
    "bond_price": {"coupon_rate", "years", "yield_rate"},
    "bond_yield": {"price", "coupon_rate", "years"},
    "bond_duration": {"coupon_rate", "years", "yield_rate"},
    "option_price": {"kind", "spot", "strike", "years", "volatility", "rate"},
    "implied_volatility": {"kind", "price", "spot", "strike", "years", "rate"},
    "portfolio_statistics": set(),
}


async def test_every_tool_is_typed_described_and_marked_read_only(server: FinancialServer) -> None:
    tools = await server.list_tools()
    assert {tool.name: set(tool.input_schema.get("required", ())) for tool in tools} == TOOLS
    for tool in tools:
        assert tool.description
        assert len(tool.description) < 250
        assert tool.output_schema
        assert tool.annotations
        assert tool.annotations.read_only_hint
        assert tool.annotations.idempotent_hint
        assert tool.input_schema["additionalProperties"] is False
        assert all(argument.get("description") for argument in tool.input_schema["properties"].values())


async def test_the_text_of_a_result_is_its_structured_content(server: FinancialServer) -> None:
    result = await server.call_tool("npv", {"rate": 0.0, "cash_flows": [1, 2]})
    assert isinstance(result, CallToolResult)
    (block,) = result.content
    assert isinstance(block, TextContent)
    assert json.loads(block.text) == result.structured_content == {"npv": 3.0}


async def test_resources_are_the_index_and_each_history(server: FinancialServer) -> None:
    listed = [resource.uri for resource in await server.list_resources()]
    assert listed == ["prices://index", "prices://SAMPLE-MARKET", "prices://SAMPLE-STEADY", "prices://SAMPLE-SWING"]
    (index,) = await server.read_resource("prices://index")  # type: ignore[misc]
    assert [entry["uri"] for entry in json.loads(index.content)["prices"]] == listed[1:]


@pytest.mark.parametrize("uri", ["prices://NOPE", "prices://..", "prices://%2e%2e%2fx", "prices://../../etc/passwd"])
async def test_a_resource_that_is_not_there_or_outside_is_not_found(server: FinancialServer, uri: str) -> None:
    with pytest.raises(ResourceNotFoundError):
        await server.read_resource(uri)


async def test_the_tools_read_the_sample_prices(server: FinancialServer) -> None:
    symbols = ["SAMPLE-MARKET", "SAMPLE-STEADY", "SAMPLE-SWING"]
    result = await server.call_tool("portfolio_statistics", {"symbols": symbols, "benchmark": "SAMPLE-MARKET"})
    assert isinstance(result, CallToolResult)
    assert result.structured_content
    betas = {series["name"]: series["beta"] for series in result.structured_content["series"]}
    # The samples are made with these betas and noise of their own.
    assert betas == pytest.approx({"SAMPLE-MARKET": 1, "SAMPLE-STEADY": 0.5, "SAMPLE-SWING": 1.6}, abs=0.2)


async def test_the_prompts_name_the_tools_to_use(server: FinancialServer) -> None:
    project = await server.get_prompt("value_project", {"description": "a mill", "discount_rate": "0.07"})
    assert "a mill" in project.messages[0].content.text  # type: ignore[union-attr]
    assert "npv with rate 0.07" in project.messages[0].content.text  # type: ignore[union-attr]
    review = await server.get_prompt("review_portfolio", {"symbols": "A, B", "benchmark": "M"})
    assert "portfolio_statistics" in review.messages[0].content.text  # type: ignore[union-attr]
