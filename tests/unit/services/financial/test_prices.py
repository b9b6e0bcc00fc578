import os
from pathlib import Path

import pytest

from services.financial.prices import SAMPLE_DIRECTORY, PriceFolder, UnknownSymbol
from services.financial.sample_prices import build_samples
from services.tool_server import InvalidArgument

HISTORY = "date,close\n2024-01-01,1\n2024-01-02,2\n2024-01-03,3\n"


def test_the_samples_in_the_package_are_the_generated_ones_and_say_so() -> None:
    for symbol, text in build_samples().items():
        assert (SAMPLE_DIRECTORY / f"{symbol}.csv").read_text(encoding="utf-8") == text
        assert text.startswith("# SYNTHETIC")
    assert [file.symbol for file in PriceFolder(SAMPLE_DIRECTORY).list_files()] == sorted(build_samples())


def test_files_may_come_and_go(tmp_path: Path) -> None:
    folder = PriceFolder(tmp_path)
    assert folder.list_files() == []
    (tmp_path / "AAA.csv").write_text(HISTORY)
    assert [file.symbol for file in folder.list_files()] == ["AAA"]
    (tmp_path / "AAA.csv").unlink()
    with pytest.raises(UnknownSymbol, match="holds no"):
        folder.read_text("AAA")


@pytest.mark.parametrize(
    "symbol", ["../outside", "/etc/passwd", "..", "", "AAA.csv", "a/b", "AAA\x00", "index", "LINK", "PIPE"]
)
def test_nothing_but_a_regular_file_of_the_folder_can_be_read(tmp_path: Path, symbol: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "outside.csv").write_text(HISTORY)
    (inside / "AAA.csv").write_text(HISTORY)
    (inside / "index.csv").write_text(HISTORY)
    (inside / "LINK.csv").symlink_to(tmp_path / "outside.csv")
    os.mkfifo(inside / "PIPE.csv")
    folder = PriceFolder(inside)
    assert [file.symbol for file in folder.list_files()] == ["AAA"]
    with pytest.raises(UnknownSymbol):
        folder.read_text(symbol)


def test_an_unknown_symbol_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownSymbol, match="Use one of SAMPLE-SWING"):
        PriceFolder(SAMPLE_DIRECTORY).read_text("SAMPLE-SWIN")


def test_a_file_that_is_too_large_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "BIG.csv").write_bytes(b"1" * (4 * 1024 * 1024 + 1))
    (tmp_path / "BIN.csv").write_bytes(b"\xff\xfe\x00")
    folder = PriceFolder(tmp_path)
    with pytest.raises(InvalidArgument, match="4194305 bytes; at most 4194304"):
        folder.read_text("BIG")
    with pytest.raises(InvalidArgument, match="not UTF-8 text"):
        folder.read_text("BIN")


def test_series_are_aligned_on_the_dates_that_all_have(tmp_path: Path) -> None:
    (tmp_path / "AAA.csv").write_text(HISTORY)
    (tmp_path / "BBB.csv").write_text("date,open,Close\n2024-01-02,0,20\n2024-01-03,0,30\n2024-01-04,0,40\n")
    table = PriceFolder(tmp_path).load(["BBB", "AAA"])
    assert table.dates == ("2024-01-02", "2024-01-03")
    assert table.series == {"BBB": [20.0, 30.0], "AAA": [2.0, 3.0]}


def test_series_that_cannot_be_aligned_are_refused(tmp_path: Path) -> None:
    (tmp_path / "AAA.csv").write_text(HISTORY)
    (tmp_path / "OLD.csv").write_text("date,close\n1999-01-01,1\n")
    (tmp_path / "ODD.csv").write_text("date,price\n2024-01-01,1\n")
    (tmp_path / "BAD.csv").write_text("date,close\n2024-01-01,oops\n")
    folder = PriceFolder(tmp_path)
    for symbols, says in (
        (["AAA", "OLD"], "symbols: they have no date in common"),
        (["ODD"], "ODD.csv: it has no columns date and close"),
        (["BAD"], "BAD.csv line 2 column 'close': 'oops' is not a number"),
    ):
        with pytest.raises(InvalidArgument, match=says):
            folder.load(symbols)


def test_a_directory_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(InvalidArgument, match="cannot be read"):
            PriceFolder(path)
