import pytest

from services.financial.price_table import parse_price_csv
from services.tool_server import InvalidArgument


def test_comments_blank_lines_and_a_byte_order_mark_are_skipped() -> None:
    table = parse_price_csv("\ufeff# a note\n\nDate,A, B \n2024-01-01, 1,2\n\n2024-01-02,3,4.5\n", field="csv")
    assert table.series == {"A": [1.0, 3.0], "B": [2.0, 4.5]}
    assert table.dates == ("2024-01-01", "2024-01-02")


def test_the_date_column_may_be_left_out() -> None:
    table = parse_price_csv("A,B\n1,2\n3,4\n", field="csv")
    assert table.series == {"A": [1.0, 3.0], "B": [2.0, 4.0]}
    assert table.dates == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "csv: the CSV text is empty"),
        ("# only a note\n", "csv: the CSV text is empty"),
        ("A,B\n", "csv: there is no row below the header"),
        ("1,2\n3,4\n", "csv line 1: the header is missing"),
        ("date\n2024-01-01\n", "csv line 1: there is no column beside the date"),
        ("date;A\n2024-01-01;1\n", "csv line 1: the columns are not separated by commas"),
        ("A,A\n1,2\n", "csv line 1: 'A' is there twice"),
        ("A,\n1,2\n", "csv line 1: '' is not a name"),
        (",".join(f"S{n}" for n in range(51)), "csv line 1: 51 series; at most 50"),
        ("A,B\n1,2\n1\n", "csv line 3: 1 fields, but the header has 2"),
        ("A,B\n1,2\n1,2,3\n", "csv line 3: 3 fields"),
        ("# note\n\nA,B\n1,x\n", "csv line 4 column 'B': 'x' is not a number"),
        ("A,B\n1,\n", "csv line 2 column 'B': the value is missing"),
        ("A\nNaN\n", "csv line 2 column 'A': 'NaN' is not a number"),
        ("A\n-inf\n", "csv line 2 column 'A': '-inf' is not a number"),
        ("A\n1e999\n", "csv line 2 column 'A': '1e999' is not a number"),
        ("A\n1_000\n", "csv line 2 column 'A': '1_000' is not a number"),
        ('A\n"1\n', "csv line 2: this is not CSV"),
        ("date,A\n01/02/2024,1\n", "csv line 2: '01/02/2024' is not a date"),
        ("date,A\n2024-01-02,1\n2024-01-02,2\n", "csv line 3: the date 2024-01-02 is not after the one before"),
        ("date,A\n2024-01-02,1\n2024-01-01,2\n", "csv line 3: the date 2024-01-01 is not after the one before"),
        ("A\n" + "1\n" * 20_001, "csv line 20002: more than 20000 rows"),
        ("A,B,C,D,E,F,G,H,I,J,K\n" + "1,1,1,1,1,1,1,1,1,1,1\n" * 19_000, "more than 20000 rows or 200000 numbers"),
        ("A\n" + "1\n" * 1_000_000, "csv: 1000001 lines; at most 20000 rows"),
        ("A" * 5_000_000, "csv: 5000000 characters; at most 4194304"),
        ("A\n" + "9" * 100 + "x\n", r"'9{40}\.\.\.' is not a number"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_malformed_text_is_refused_with_the_line_at_fault(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as caught:
        parse_price_csv(text, field="csv")
    assert caught.value.fix
