import pytest

from mesh.runtime import Backoff


def test_bounds_double_up_to_the_maximum() -> None:
    backoff = Backoff(0.1, 1.0, random=lambda: 1.0)
    assert [backoff.next() for _ in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_jitter_is_full() -> None:
    assert Backoff(4.0, 8.0, random=lambda: 0.0).next() == 0.0
    assert Backoff(4.0, 8.0, random=lambda: 0.25).next() == 1.0


def test_reset_begins_anew() -> None:
    backoff = Backoff(1.0, 8.0, random=lambda: 1.0)
    backoff.next()
    backoff.next()
    backoff.reset()
    assert backoff.next() == 1.0


@pytest.mark.parametrize(("initial", "maximum"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_bounds_that_make_no_sense_are_refused(initial: float, maximum: float) -> None:
    with pytest.raises(ValueError, match="maximum"):
        Backoff(initial, maximum)
