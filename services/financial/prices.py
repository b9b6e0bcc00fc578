"""The folder of price histories: one CSV file for each symbol, `SYMBOL.csv`, with a close for each date."""

import difflib
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.financial.limits import MAX_CSV_BYTES
from services.financial.price_table import PriceTable, parse_price_csv
from services.tool_server import InvalidArgument, quote

__all__ = ["INDEX_SYMBOL", "SAMPLE_DIRECTORY", "PriceFile", "PriceFolder", "UnknownSymbol"]

SAMPLE_DIRECTORY = Path(__file__).parent / "sample_data"
INDEX_SYMBOL = "index"  # the name of the listing, so no symbol

_SYMBOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_MAX_FILES = 1_000


class UnknownSymbol(InvalidArgument):
    """There is no such price history."""


@dataclass(frozen=True, slots=True)
class PriceFile:
    """A price history that can be read."""

    symbol: str
    size: int


class PriceFolder:
    """Reads the price histories of one directory and nothing else; files may come and go while it is in use."""

    def __init__(self, directory: Path) -> None:
        """Raises InvalidArgument when `directory` is not a directory that can be read."""
        try:
            self._root = directory.resolve(strict=True)
            next(self._root.iterdir(), None)
        except OSError as err:
            raise InvalidArgument(
                "data_dir",
                f"{directory} cannot be read ({err.strerror}).",
                "Give a directory with SYMBOL.csv files, or leave it out for the sample series.",
            ) from err

    def list_files(self) -> list[PriceFile]:
        """The price histories, sorted by symbol: at most 1000 of them."""
        files = []
        for path in sorted(self._root.glob("*.csv")):
            size = self._find_size(path)
            if size is not None and _SYMBOL.fullmatch(path.stem) and path.stem.lower() != INDEX_SYMBOL:
                files.append(PriceFile(path.stem, size))
            if len(files) == _MAX_FILES:
                break
        return files

    def read_text(self, symbol: str, *, field: str = "symbol") -> str:
        """The CSV text of a symbol.

        Raises UnknownSymbol, or InvalidArgument when the file is too large or not text.
        """
        files = {file.symbol: file for file in self.list_files()}
        file = files.get(symbol)
        if file is None:
            raise UnknownSymbol(field, f"there are no prices for {quote(symbol)}.", _suggest(symbol, list(files)))
        if file.size > MAX_CSV_BYTES:
            raise InvalidArgument(
                field,
                f"{file.symbol}.csv has {file.size} bytes; at most {MAX_CSV_BYTES} are read.",
                "Shorten the file.",
            )
        try:
            return (self._root / f"{file.symbol}.csv").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as err:
            cause = err.strerror if isinstance(err, OSError) else "it is not UTF-8 text"
            raise InvalidArgument(
                field, f"{file.symbol}.csv cannot be read ({cause}).", "Repair the file in the data directory."
            ) from err

    def load(self, symbols: Sequence[str]) -> PriceTable:
        """The closes of several symbols on the dates that all of them have; raises as `read_text` does."""
        closes = {symbol: self._read_closes(symbol) for symbol in symbols}
        days = set.intersection(*(set(of_symbol) for of_symbol in closes.values()))
        if not days:
            raise InvalidArgument("symbols", "they have no date in common.", "Choose series of the same span.")
        dates = tuple(sorted(days))
        series = {symbol: [of_symbol[day] for day in dates] for symbol, of_symbol in closes.items()}
        return PriceTable(series, dates)

    def _read_closes(self, symbol: str) -> dict[str, float]:
        table = parse_price_csv(self.read_text(symbol, field="symbols"), field=f"{symbol}.csv")
        column = next((name for name in table.series if name.lower() == "close"), None)
        if not table.dates or column is None:
            raise InvalidArgument(
                f"{symbol}.csv", "it has no columns date and close.", 'Begin the file with the header "date,close".'
            )
        return dict(zip(table.dates, table.series[column], strict=True))

    def _find_size(self, path: Path) -> int | None:
        """The size of a regular file that really lies in the folder; None for anything else, links out included."""
        try:
            real = path.resolve(strict=True)
            status = real.stat()
        except OSError:
            return None
        return status.st_size if real.parent == self._root and stat.S_ISREG(status.st_mode) else None


def _suggest(symbol: str, known: Sequence[str]) -> str:
    if not known:
        return "The data directory holds no SYMBOL.csv file."
    near = difflib.get_close_matches(symbol.upper(), known, n=3, cutoff=0.5)
    return f"Use one of {', '.join(near or known[:8])}{', ...' if not near and len(known) > 8 else ''}."
