"""The MCP server: which tools, resources and prompts there are, and how a bad argument is answered."""

import asyncio
from typing import Any

import pydantic_core
from mcp.server import CacheHint, MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import (
    CallToolResult,
    Completion,
    CompletionArgument,
    CompletionContext,
    InputRequiredResult,
    PromptReference,
    Resource,
    ResourceTemplateReference,
    TextContent,
    ToolAnnotations,
)
from pydantic import ValidationError

from services.financial.bad_arguments import check_arguments, describe_rejection
from services.financial.bonds import bond_duration, bond_price, bond_yield
from services.financial.cash_flows import irr, mirr, npv
from services.financial.limits import InvalidArgument
from services.financial.loans import amortization_schedule
from services.financial.options import implied_volatility, option_price
from services.financial.portfolio_tool import build_portfolio_tool
from services.financial.prices import INDEX_SYMBOL, PriceFolder, UnknownSymbol
from services.financial.prompts import review_portfolio, value_project

__all__ = ["FinancialServer"]

_INSTRUCTIONS = (
    "Financial mathematics. Rates are fractions: 0.05 is 5 %. Cash flows are equally spaced, the first at time 0. "
    "Price histories are resources prices://SYMBOL, listed in prices://index."
)
_TITLES = {
    npv: "Net present value",
    irr: "Internal rate of return",
    mirr: "Modified internal rate of return",
    amortization_schedule: "Loan amortization",
    bond_price: "Bond price",
    bond_yield: "Bond yield to maturity",
    bond_duration: "Bond duration and convexity",
    option_price: "Option price and greeks",
    implied_volatility: "Implied volatility",
}
_SCHEME = "prices://"
_CSV_TYPE = "text/csv"
_HOUR_MS = 3_600_000


class FinancialServer(MCPServer[dict[str, Any]]):
    """Serves the financial tools over the price histories of one folder.

    Every tool refuses arguments that it does not know, and answers a bad one with an error result whose text names the
    argument, the cause and the fix. Tools are plain functions, which the SDK runs in worker threads.
    """

    def __init__(self, folder: PriceFolder, *, version: str = "") -> None:
        self._folder = folder
        tools = [_build_tool(function, title) for function, title in _TITLES.items()]
        tools.append(_build_tool(build_portfolio_tool(folder), "Portfolio statistics"))
        self._schemas = {tool.name: tool.parameters for tool in tools}
        unchanging = CacheHint(ttl_ms=_HOUR_MS, scope="public")
        super().__init__(
            "financial",
            title="Financial mathematics",
            instructions=_INSTRUCTIONS,
            version=version,
            tools=tools,
            log_level="WARNING",
            cache_hints={"tools/list": unchanging, "prompts/list": unchanging},
        )
        self._add_resources()
        self.prompt(title="Value a project")(value_project)
        self.prompt(title="Review a portfolio")(review_portfolio)
        self.completion()(self._complete)  # type: ignore[no-untyped-call]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[dict[str, Any], Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool; raises ToolError whose text is fit for the caller."""
        schema = self._schemas.get(name, {})
        try:
            check_arguments(arguments, schema)
            result = await super().call_tool(name, arguments, context)
        except InvalidArgument as err:
            raise ToolError(str(err)) from err
        except UnexpectedToolError as err:
            if isinstance(err.__cause__, InvalidArgument):
                raise ToolError(str(err.__cause__)) from err.__cause__
            raise
        except ToolError as err:
            if isinstance(err.__cause__, ValidationError):
                raise ToolError(describe_rejection(err.__cause__, schema)) from err.__cause__
            raise
        if isinstance(result, CallToolResult) and result.structured_content is not None:
            # The SDK indents the text copy of the result, which doubles the length of a schedule.
            text = pydantic_core.to_json(result.structured_content).decode()
            return result.model_copy(update={"content": [TextContent(type="text", text=text)]})
        return result

    async def list_resources(self) -> list[Resource]:
        """The index, and each price history that is in the folder at this moment."""
        files = [
            Resource(
                uri=f"{_SCHEME}{file.symbol}",
                name=file.symbol,
                description=f"Price history of {file.symbol}",
                mime_type=_CSV_TYPE,
                size=file.size,
            )
            for file in await asyncio.to_thread(self._folder.list_files)
        ]
        return [*await super().list_resources(), *files]

    def _add_resources(self) -> None:
        @self.resource(
            f"{_SCHEME}{INDEX_SYMBOL}",
            name=INDEX_SYMBOL,
            title="Index of the price histories",
            mime_type="application/json",
        )
        def read_index() -> str:
            """Symbol, URI and size of every price history."""
            entries = [
                {"symbol": file.symbol, "uri": f"{_SCHEME}{file.symbol}", "bytes": file.size}
                for file in self._folder.list_files()
            ]
            return pydantic_core.to_json({"prices": entries}, indent=2).decode()

        @self.resource(f"{_SCHEME}{{symbol}}", name="prices", title="Price history", mime_type=_CSV_TYPE)
        def read_prices(symbol: str) -> str:
            """Price history of a symbol as CSV, a close for each date; lines that start with "#" are comments."""
            try:
                return self._folder.read_text(symbol)
            except UnknownSymbol as err:
                raise ResourceNotFoundError(str(err)) from err
            except InvalidArgument as err:
                raise ResourceError(str(err)) from err

    async def _complete(
        self,
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        if not isinstance(ref, ResourceTemplateReference) or argument.name != "symbol":
            return None
        typed = argument.value.lower()
        files = await asyncio.to_thread(self._folder.list_files)
        symbols = [file.symbol for file in files if file.symbol.lower().startswith(typed)]
        return Completion(values=symbols[:100], total=len(symbols), has_more=len(symbols) > 100)


def _build_tool(function: Any, title: str) -> Tool:
    tool = Tool.from_function(
        function,
        title=title,
        description=" ".join((function.__doc__ or "").split()),
        annotations=ToolAnnotations(
            read_only_hint=True, idempotent_hint=True, destructive_hint=False, open_world_hint=False
        ),
        structured_output=True,
    )
    tool.parameters["additionalProperties"] = False
    return tool
