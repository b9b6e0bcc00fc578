"""The MCP server: which tools, resources and prompts there are."""

import asyncio

import pydantic_core
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    Resource,
    ResourceTemplateReference,
)

from services.financial.bonds import bond_duration, bond_price, bond_yield
from services.financial.cash_flows import irr, mirr, npv
from services.financial.loans import amortization_schedule
from services.financial.options import implied_volatility, option_price
from services.financial.portfolio_tool import build_portfolio_tool
from services.financial.prices import INDEX_SYMBOL, PriceFolder, UnknownSymbol
from services.financial.prompts import review_portfolio, value_project
from services.tool_server import InvalidArgument, ToolServer, build_tool

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


class FinancialServer(ToolServer):
    """Serves the financial tools over the price histories of one folder."""

    def __init__(self, folder: PriceFolder, *, version: str = "") -> None:
        self._folder = folder
        tools = [build_tool(function, title) for function, title in _TITLES.items()]
        tools.append(build_tool(build_portfolio_tool(folder), "Portfolio statistics"))
        super().__init__("financial", tools, title="Financial mathematics", instructions=_INSTRUCTIONS, version=version)
        self._add_resources()
        self.prompt(title="Value a project")(value_project)
        self.prompt(title="Review a portfolio")(review_portfolio)
        self.completion()(self._complete)  # type: ignore[no-untyped-call]

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
