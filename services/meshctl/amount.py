"""Numbers on the command line."""

import math
from typing import Any

import click


class Amount(click.FloatRange):
    """A number above 0, up to a bound; neither infinite nor NaN, which pass click's own range."""

    def __init__(self, most: float) -> None:
        super().__init__(min=0.0, max=most, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; fails with click's words for what is none."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number
