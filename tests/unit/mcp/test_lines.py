"""LineSplitter: bounded memory, whatever the chunks are."""

from hypothesis import given
from hypothesis import strategies as st

from mesh.mcp.lines import EDGE_BYTES, LineSplitter, OversizeLine


def split(data: bytes, sizes: list[int], limit: int) -> list[bytes | OversizeLine]:
    splitter = LineSplitter(limit)
    lines: list[bytes | OversizeLine] = []
    start = 0
    for size in [*sizes, len(data)]:
        lines += splitter.feed(data[start : start + size])
        start += size
    return lines + splitter.finish()


@given(st.lists(st.binary(max_size=20).filter(lambda b: b"\n" not in b and not b.endswith(b"\r"))), st.data())
def test_lines_do_not_depend_on_chunks(lines: list[bytes], data: st.DataObject) -> None:
    text = b"".join(line + b"\n" for line in lines)
    sizes = data.draw(st.lists(st.integers(1, 7)))
    assert split(text, sizes, 100) == lines


@given(st.integers(1, 3000), st.lists(st.integers(1, 700)))
def test_only_lines_over_the_limit_are_oversize(length: int, sizes: list[int]) -> None:
    limit = 1000
    first, second = split(b"x" * length + b"\nnext\n", sizes, limit)
    assert second == b"next"
    if length <= limit:
        assert first == b"x" * length
    else:
        assert isinstance(first, OversizeLine)
        assert first.size == length


def test_an_oversize_line_keeps_its_ends() -> None:
    line = b"head" + b"." * 5000 + b"tail"
    (oversize,) = split(line + b"\n", [1000, 1000, 1000], 100)
    assert isinstance(oversize, OversizeLine)
    assert oversize.head.startswith(b"head") and oversize.tail.endswith(b"tail")
    assert len(oversize.head) <= EDGE_BYTES and len(oversize.tail) <= EDGE_BYTES


def test_a_last_line_without_an_end_is_given_at_the_end() -> None:
    splitter = LineSplitter(10)
    assert splitter.feed(b"a\nb") == [b"a"]
    assert splitter.finish() == [b"b"]
    assert splitter.finish() == []


def test_windows_line_ends_are_taken_off() -> None:
    assert LineSplitter(10).feed(b"a\r\n\n") == [b"a", b""]
