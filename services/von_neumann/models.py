"""What the skills take and give. Checked before anything is computed; every number is finite and bounded."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from mesh.errors import InvalidInput
from services.von_neumann.expressions import Vocabulary
from services.von_neumann.vocabulary import NUMERIC, SYMBOLIC

MAX_EXPRESSION = 2_000
MAX_VARIABLES = 200
MAX_CONSTRAINTS = 500
MAX_STRATEGIES = 100
MAX_EQUILIBRIA_STRATEGIES = 6
MAX_SAMPLES = 5_000_000
MAX_CASH_FLOWS = 1_000

Number = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]
Text = Annotated[
    str, Field(min_length=1, max_length=MAX_EXPRESSION, description="for example sin(x)^2 + 3*x; functions as in math")
]


def _check(text: str, vocabulary: Vocabulary, *, is_equation: bool = False) -> str:
    """Before the worker does: the caller is told at once, and it is told the field."""
    try:
        vocabulary.check(text, is_equation=is_equation)
    except InvalidInput as err:
        raise PydanticCustomError("formula", "{why}", {"why": f"{err.summary} {err.fix}"}) from None
    return text


Symbolic = Annotated[Text, AfterValidator(lambda text: _check(text, SYMBOLIC))]
Numeric = Annotated[Text, AfterValidator(lambda text: _check(text, NUMERIC))]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,30}$")]


class Model(BaseModel):
    """Refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SymbolicTask(Model):
    """One operation on an expression; `solve` takes an equation such as x^2 = 2, too."""

    operation: Literal[
        "simplify", "expand", "factor", "solve", "differentiate", "integrate", "limit", "series", "evaluate"
    ]
    expression: Text
    variable: Name = "x"
    order: Annotated[int, Field(ge=1, le=20, description="how often to differentiate")] = 1
    lower: Symbolic | None = Field(default=None, description="bound of a definite integral; oo is infinity")
    upper: Symbolic | None = None
    point: Symbolic = Field(default="0", description="where the limit or the series is taken")
    direction: Literal["both", "left", "right"] = Field(default="both", description="from where a limit is taken")
    terms: Annotated[int, Field(ge=1, le=20, description="terms of a series")] = 6
    values: Annotated[dict[Name, Number], Field(max_length=50, description="for evaluate")] = {}
    digits: Annotated[int, Field(ge=1, le=100, description="of evaluate's result")] = 15

    @field_validator("expression")
    @classmethod
    def _formula(cls, text: str, info: ValidationInfo) -> str:
        return _check(text, SYMBOLIC, is_equation=info.data.get("operation") == "solve")

    @model_validator(mode="after")
    def _both_bounds(self) -> Self:
        if (self.lower is None) != (self.upper is None):
            raise ValueError("give both lower and upper, or neither")
        return self


class SymbolicResult(Model):
    """`result` and `latex` are the expression; `value` is it as a number, if it is.

    `solutions` are those of solve, null when every value is one.
    """

    result: str
    latex: str
    solutions: list[str] | None = None
    value: float | None = None


class Constraint(Model):
    """coefficients * x RELATION bound."""

    coefficients: Annotated[list[Number], Field(min_length=1, max_length=MAX_VARIABLES)]
    relation: Literal["<=", ">=", "=="]
    bound: Number


class LinearProgram(Model):
    """Minimize or maximize objective * x under constraints. Without bounds every variable is at least 0."""

    objective: Annotated[list[Number], Field(min_length=1, max_length=MAX_VARIABLES)]
    maximize: bool = False
    constraints: Annotated[list[Constraint], Field(max_length=MAX_CONSTRAINTS)] = []
    bounds: Annotated[list[tuple[Number | None, Number | None]], Field(max_length=MAX_VARIABLES)] | None = None
    integer: bool = Field(default=False, description="whether all variables must be whole numbers")

    @model_validator(mode="after")
    def _same_lengths(self) -> Self:
        count = len(self.objective)
        for number, constraint in enumerate(self.constraints):
            if len(constraint.coefficients) != count:
                raise ValueError(
                    f"constraints.{number}.coefficients has {len(constraint.coefficients)} numbers, objective {count}"
                )
        if self.bounds is not None and len(self.bounds) != count:
            raise ValueError(f"bounds has {len(self.bounds)} pairs, objective {count} numbers")
        return self


class LinearResult(Model):
    """`slack` and `shadow_prices` are per constraint, in order; a shadow price is the gain per unit of its bound."""

    status: Literal["optimal", "infeasible", "unbounded"]
    message: str = ""
    value: float | None = None
    solution: list[float] | None = None
    slack: list[float] | None = None
    shadow_prices: list[float] | None = None


Matrix = Annotated[
    list[Annotated[list[Number], Field(min_length=1, max_length=MAX_STRATEGIES)]],
    Field(min_length=1, max_length=MAX_STRATEGIES),
]


class Game(Model):
    """A game of two: payoffs of the row player, and of the column player where the game is not zero-sum."""

    row_payoffs: Matrix
    column_payoffs: Matrix | None = None

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        width = len(self.row_payoffs[0])
        if any(len(row) != width for row in self.row_payoffs):
            raise ValueError("the rows of row_payoffs have different lengths")
        if self.column_payoffs is not None:
            if [len(row) for row in self.column_payoffs] != [width] * len(self.row_payoffs):
                raise ValueError("column_payoffs has another shape than row_payoffs")
            if max(width, len(self.row_payoffs)) > MAX_EQUILIBRIA_STRATEGIES:
                raise ValueError(f"a game that is not zero-sum may have {MAX_EQUILIBRIA_STRATEGIES} strategies a side")
        return self


class Equilibrium(Model):
    """Mixed strategies, as probabilities, and what they yield."""

    row_strategy: list[float]
    column_strategy: list[float]
    row_value: float
    column_value: float


class GameResult(Model):
    """The value of a zero-sum game to the row player, else null; and the equilibria that were found."""

    value: float | None
    equilibria: list[Equilibrium]


class Normal(Model):
    """mean, standard deviation."""

    distribution: Literal["normal", "lognormal"]
    mean: Number
    stdev: Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False)]


class Uniform(Model):
    """low to high."""

    distribution: Literal["uniform"]
    low: Number
    high: Number


class Triangular(Model):
    """low, most likely, high."""

    distribution: Literal["triangular"]
    low: Number
    mode: Number
    high: Number


class Exponential(Model):
    """The mean waiting time."""

    distribution: Literal["exponential"]
    mean: Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False)]


class Discrete(Model):
    """Values and their weights."""

    distribution: Literal["discrete"]
    values: Annotated[list[Number], Field(min_length=1, max_length=1000)]
    weights: Annotated[list[Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]], Field(max_length=1000)] = []


Variable = Annotated[Normal | Uniform | Triangular | Exponential | Discrete, Field(discriminator="distribution")]


class Simulation(Model):
    """Sample an expression over independent variables. For lognormal, mean and stdev are those of the logarithm."""

    expression: Numeric
    variables: Annotated[dict[Name, Variable], Field(min_length=1, max_length=50)]
    samples: Annotated[int, Field(ge=100, le=MAX_SAMPLES)] = 100_000
    seed: Annotated[int, Field(ge=0, le=2**63)] | None = None
    quantiles: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(max_length=50)] = [
        0.05,
        0.25,
        0.5,
        0.75,
        0.95,
    ]
    threshold: Number | None = Field(default=None, description="tell the share of samples that are at most this")

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name, variable in self.variables.items():
            match variable:
                case Uniform(low=low, high=high) if not low < high:
                    raise ValueError(f"variables.{name}: low must be less than high")
                case Triangular(low=low, mode=mode, high=high) if not (low <= mode <= high and low < high):
                    raise ValueError(f"variables.{name}: low, mode and high must be in this order")
                case Discrete(values=values, weights=weights) if weights and (
                    len(weights) != len(values) or sum(weights) <= 0
                ):
                    raise ValueError(f"variables.{name}: give one weight for each value, not all of them 0")
                case _:
                    pass
        return self


class SimulationResult(Model):
    """Moments and quantiles of the samples; `standard_error` is that of the mean."""

    samples: int
    mean: float
    stdev: float
    standard_error: float
    minimum: float
    maximum: float
    quantiles: dict[str, float]
    share_at_most_threshold: float | None = None


class Project(Model):
    """Cash flows of a project, the first at time 0, and a discount rate per period as a fraction."""

    rate: Annotated[float, Field(gt=-1, le=100, allow_inf_nan=False)]
    cash_flows: Annotated[list[Number], Field(min_length=1, max_length=MAX_CASH_FLOWS)]
    rates: Annotated[
        list[Annotated[float, Field(gt=-1, le=100, allow_inf_nan=False)]],
        Field(max_length=25, description="further rates for the sensitivity table; by default around the rate"),
    ] = []


class RateAndValue(Model):
    """A discount rate and the net present value at it."""

    rate: float
    npv: float


class Valuation(Model):
    """Net present value, internal rate of return (null, with the reason in `note`), and the value at other rates."""

    npv: float
    irr: float | None
    is_worthwhile: bool
    sensitivity: list[RateAndValue]
    note: str = ""
