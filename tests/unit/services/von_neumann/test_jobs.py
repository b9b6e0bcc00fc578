"""The mathematics against known answers, in this process."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mesh.errors import FailedPrecondition, InvalidInput
from services.von_neumann.games import solve_game
from services.von_neumann.models import Game, LinearProgram, Project, Simulation, SymbolicTask
from services.von_neumann.monte_carlo import simulate
from services.von_neumann.programs import solve_program
from services.von_neumann.symbolic import solve_symbolic
from services.von_neumann.vocabulary import NUMERIC, SYMBOLIC

TIGHT = {"rel": 1e-9, "abs": 1e-9}


def symbolic(operation, expression, **more):
    return solve_symbolic(SymbolicTask(operation=operation, expression=expression, **more))


@pytest.mark.parametrize(
    ("operation", "expression", "more", "result"),
    [
        ("simplify", "sin(x)^2 + cos(x)^2", {}, "1"),
        ("expand", "(x + 1)^2", {}, "x**2 + 2*x + 1"),
        ("factor", "x^2 - 1", {}, "(x - 1)*(x + 1)"),
        ("differentiate", "x^3", {"order": 2}, "6*x"),
        ("differentiate", "exp(a*t)", {"variable": "t"}, "a*exp(a*t)"),
        ("integrate", "1/x", {}, "log(x)"),
        # Gauss's integral.
        ("integrate", "exp(-x^2)", {"lower": "-oo", "upper": "oo"}, "sqrt(pi)"),
        ("limit", "sin(x)/x", {}, "1"),
        ("limit", "(1 + 1/x)^x", {"point": "oo"}, "E"),
        ("series", "exp(x)", {"terms": 3}, "1 + x + x**2/2 + O(x**3)"),
    ],
)
def test_symbolic_result(operation, expression, more, result):
    assert symbolic(operation, expression, **more).result == result


def test_equations_are_solved():
    assert symbolic("solve", "x^2 = 2").solutions == ["-sqrt(2)", "sqrt(2)"]
    assert symbolic("solve", "2*x - 3").value == 1.5
    assert symbolic("solve", "x = x + 1").solutions == []


def test_an_equation_that_always_holds_has_every_value():
    found = symbolic("solve", "x + x = 2*x")
    assert (found.result, found.solutions) == ("every x", None)


def test_an_equation_without_the_variable_names_those_it_has():
    with pytest.raises(InvalidInput, match=r"Solve for x\."):
        symbolic("solve", "2*x = 1", variable="y")


@pytest.mark.parametrize(
    ("expression", "words"),
    [("1/x", "left it is -oo, from the right oo"), ("abs(x)/x", "left it is -1"), ("sin(1/x)", "do not settle")],
)
def test_a_limit_that_differs_by_side_or_does_not_settle_is_none(expression, words):
    with pytest.raises(FailedPrecondition, match=words):
        symbolic("limit", expression)


def test_a_limit_may_be_taken_from_one_side():
    assert symbolic("limit", "1/x", direction="left").result == "-oo"
    assert symbolic("limit", "1/x", direction="right").result == "oo"
    assert symbolic("limit", "atan(x)", point="-oo").result == "-pi/2"


@pytest.mark.parametrize(
    ("operation", "expression", "more"),
    [
        ("simplify", "1/0", {}),
        ("simplify", "oo - oo", {}),
        ("solve", "x = 1/0", {}),
        ("integrate", "1/x", {"lower": "-1", "upper": "1"}),
    ],
)
def test_what_is_not_defined_is_no_answer(operation, expression, more):
    with pytest.raises(FailedPrecondition) as caught:
        symbolic(operation, expression, **more)
    assert caught.value.reason == "UNDEFINED"


def test_decimals_are_exact():
    assert symbolic("evaluate", "0.1*y", values={"y": 0.1}, digits=40).result.rstrip("0") == "0.01"
    assert symbolic("solve", "0.1*x = 0.3").solutions == ["3"]


def test_evaluation_needs_all_values_and_gives_a_number():
    assert symbolic("evaluate", "pi*r^2", values={"r": 2}).value == pytest.approx(4 * math.pi)
    with pytest.raises(InvalidInput, match="No value is given for h, r"):
        symbolic("evaluate", "pi*r^2*h")


def test_what_has_no_closed_form_is_said_to_have_none():
    with pytest.raises(FailedPrecondition, match="no closed form"):
        symbolic("integrate", "sin(sin(x))/x^x")


def constraint(coefficients, relation, bound):
    return {"coefficients": coefficients, "relation": relation, "bound": bound}


def test_a_textbook_program_has_its_known_optimum_and_shadow_prices():
    # The Wyndor Glass example of Hillier and Lieberman, Introduction to Operations Research, chapter 3.
    found = solve_program(
        LinearProgram(
            objective=[3, 5],
            maximize=True,
            constraints=[constraint([1, 0], "<=", 4), constraint([0, 2], "<=", 12), constraint([3, 2], "<=", 18)],
        )
    )
    assert found.status == "optimal"
    assert found.value == pytest.approx(36)
    assert found.solution == pytest.approx([2, 6])
    assert found.slack == pytest.approx([2, 0, 0])
    assert found.shadow_prices == pytest.approx([0, 1.5, 1])


def test_relations_bounds_and_whole_numbers():
    found = solve_program(
        LinearProgram(
            objective=[1, 1],
            constraints=[constraint([1, 2], ">=", 3), constraint([1, -1], "==", 0.25)],
            bounds=[(None, None), (0, 10)],
        )
    )
    assert found.value == pytest.approx(2 * (11 / 12) + 0.25)
    whole = solve_program(LinearProgram(objective=[1], constraints=[constraint([2], ">=", 3)], integer=True))
    assert (whole.value, whole.shadow_prices) == (2.0, None)


def test_programs_without_an_optimum_are_said_to_be_so():
    assert solve_program(LinearProgram(objective=[1], maximize=True)).status == "unbounded"
    infeasible = LinearProgram(objective=[1], constraints=[constraint([1], "<=", -1)])
    assert solve_program(infeasible).status == "infeasible"
    # Where HiGHS itself only says "unbounded or infeasible".
    assert solve_program(LinearProgram(objective=[1, -1], maximize=True, integer=True)).status == "unbounded"
    crossed = LinearProgram(objective=[1], bounds=[(3, 1)], integer=True)
    assert solve_program(crossed).status == "infeasible"


def test_rock_paper_scissors_is_fair_and_played_evenly():
    found = solve_game(Game(row_payoffs=[[0, -1, 1], [1, 0, -1], [-1, 1, 0]]))
    assert found.value == pytest.approx(0, abs=1e-9)
    assert found.equilibria[0].row_strategy == pytest.approx([1 / 3] * 3)
    assert found.equilibria[0].column_strategy == pytest.approx([1 / 3] * 3)


def test_matching_pennies_with_unequal_stakes():
    # A 2 x 2 game without saddle point [[a, b], [c, d]] has the value (ad - bc) / (a + d - b - c).
    found = solve_game(Game(row_payoffs=[[2, -1], [-1, 1]]))
    assert found.value == pytest.approx(1 / 5)
    assert found.equilibria[0].row_strategy == pytest.approx([2 / 5, 3 / 5])


def test_the_battle_of_the_sexes_has_three_equilibria():
    found = solve_game(Game(row_payoffs=[[3, 0], [0, 2]], column_payoffs=[[2, 0], [0, 3]]))
    assert found.value is None
    assert [equilibrium.row_value for equilibrium in found.equilibria] == pytest.approx([3, 2, 1.2])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(-20, 20), min_size=3, max_size=3), min_size=2, max_size=4))
def test_no_player_of_a_zero_sum_game_can_gain_by_deviating(payoffs):
    found = solve_game(Game(row_payoffs=payoffs))
    equilibrium = found.equilibria[0]
    best_row = max(sum(p * q for p, q in zip(row, equilibrium.column_strategy, strict=True)) for row in payoffs)
    best_column = min(
        sum(share * row[column] for share, row in zip(equilibrium.row_strategy, payoffs, strict=True))
        for column in range(3)
    )
    assert best_row == pytest.approx(found.value, abs=1e-6)
    assert best_column == pytest.approx(found.value, abs=1e-6)


DECIMALS = st.integers(-30, 30).map(lambda number: number / 10)


def bimatrix(height, width):
    matrix = st.lists(st.lists(DECIMALS, min_size=width, max_size=width), min_size=height, max_size=height)
    return st.tuples(matrix, matrix)


@settings(deadline=None, max_examples=60)
@given(st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(lambda shape: bimatrix(*shape)))
def test_every_bimatrix_game_has_an_equilibrium_and_all_that_are_found_are_some(payoffs):
    # Nash's theorem (1950).
    rows, columns = payoffs
    found = solve_game(Game(row_payoffs=rows, column_payoffs=columns)).equilibria
    assert found
    for equilibrium in found:
        x, y = equilibrium.row_strategy, equilibrium.column_strategy
        best_row = max(sum(a * q for a, q in zip(row, y, strict=True)) for row in rows)
        best_column = max(sum(b * p for b, p in zip(column, x, strict=True)) for column in zip(*columns, strict=True))
        assert equilibrium.row_value == pytest.approx(best_row, abs=1e-9)
        assert equilibrium.column_value == pytest.approx(best_column, abs=1e-9)


def test_an_equilibrium_with_supports_of_different_sizes_is_found():
    # Degenerate: both rows answer column 1, which is an answer only to a mix of them.
    found = solve_game(Game(row_payoffs=[[1, 0, 1], [1, 1, 0]], column_payoffs=[[2, 3, 0], [2, 0, 3]])).equilibria
    assert ([1.0, 0.0, 0.0] in [equilibrium.column_strategy for equilibrium in found]) is True
    assert all(0 < equilibrium.row_strategy[0] < 1 for equilibrium in found)


def test_a_simulation_finds_known_moments_and_repeats_itself_with_its_seed():
    reports = []
    task = Simulation(
        expression="x + y^2",
        variables={
            "x": {"distribution": "normal", "mean": 1, "stdev": 2},
            "y": {"distribution": "uniform", "low": 0, "high": 1},
        },
        samples=200_000,
        seed=1,
        threshold=4 / 3,
    )
    found = simulate(task, lambda progress, text: reports.append(progress))
    # E = 1 + 1/3; variance = 4 + 1/5 - 1/9.
    assert found.mean == pytest.approx(4 / 3, abs=6 * found.standard_error)
    assert found.stdev == pytest.approx(math.sqrt(4 + 1 / 5 - 1 / 9), rel=0.02)
    assert found.share_at_most_threshold == pytest.approx(0.5, abs=0.02)
    assert reports == [0.25, 0.5, 0.75, 1.0]
    assert simulate(task, lambda *_: None) == found


@pytest.mark.parametrize(
    ("distribution", "mean"),
    [
        ({"distribution": "triangular", "low": 0, "mode": 3, "high": 6}, 3.0),
        ({"distribution": "exponential", "mean": 2}, 2.0),
        ({"distribution": "lognormal", "mean": 0, "stdev": 0.5}, math.exp(0.125)),
        ({"distribution": "discrete", "values": [1, 2, 4], "weights": [2, 1, 1]}, 2.0),
        ({"distribution": "discrete", "values": [1, 3]}, 2.0),
    ],
)
def test_distributions_have_their_means(distribution, mean):
    task = Simulation(expression="x", variables={"x": distribution}, samples=100_000, seed=7)
    found = simulate(task, lambda *_: None)
    assert found.mean == pytest.approx(mean, abs=6 * found.standard_error)


def test_a_simulation_that_leaves_the_numbers_says_how_often():
    task = Simulation(expression="log(x)", variables={"x": {"distribution": "normal", "mean": 0, "stdev": 1}}, seed=1)
    with pytest.raises(FailedPrecondition, match="are no finite numbers"):
        simulate(task, lambda *_: None)


def test_functions_of_several_arguments_leave_the_samples_alone():
    uniform = {"distribution": "uniform", "low": 0, "high": 1}
    found = simulate(
        Simulation(expression="min(x, y, z) + 0*z", variables=dict.fromkeys("xyz", uniform), seed=3), lambda *_: None
    )
    # The least of n uniform numbers has the mean 1 / (n + 1).
    assert found.mean == pytest.approx(1 / 4, abs=6 * found.standard_error)
    assert found.maximum < 1


def test_each_function_of_the_vocabulary_is_there_and_both_algebras_agree_on_it():
    names = {"x": {"distribution": "discrete", "values": [0.5]}}
    for name in sorted(NUMERIC.functions):
        sampled = simulate(Simulation(expression=f"{name}(x)", variables=names, samples=100), lambda *_: None).mean
        assert symbolic("evaluate", f"{name}(x)", values={"x": 0.5}).value == pytest.approx(sampled), name
    for name in sorted(SYMBOLIC.functions):
        assert symbolic("evaluate", f"{name}(1/2)").value is not None, name


def test_an_expression_over_an_unknown_variable_names_it():
    task = Simulation(expression="x + z", variables={"x": {"distribution": "exponential", "mean": 1}})
    with pytest.raises(InvalidInput, match="z, which is no variable"):
        simulate(task, lambda *_: None)


@pytest.mark.parametrize(
    ("model", "given", "words"),
    [
        (SymbolicTask, {"operation": "solve", "expression": ""}, "expression"),
        (SymbolicTask, {"operation": "simplify", "expression": "x = 1"}, "expression"),
        (SymbolicTask, {"operation": "solve", "expression": "x = open(1)"}, "There is no function 'open'"),
        (SymbolicTask, {"operation": "limit", "expression": "x", "point": "x.y"}, "point"),
        (Simulation, {"expression": "sin(x, y)", "variables": {"x": {}}}, "sin does not take 2 arguments"),
        (SymbolicTask, {"operation": "guess", "expression": "x"}, "operation"),
        (SymbolicTask, {"operation": "integrate", "expression": "x", "lower": "0"}, "both lower and upper"),
        (SymbolicTask, {"operation": "evaluate", "expression": "x", "values": {"x": float("nan")}}, "finite"),
        (LinearProgram, {"objective": []}, "objective"),
        (LinearProgram, {"objective": [1], "constraints": [constraint([1, 2], "<=", 1)]}, "objective 1"),
        (LinearProgram, {"objective": [1], "bounds": []}, "bounds has 0 pairs"),
        (Game, {"row_payoffs": [[1, 2], [3]]}, "different lengths"),
        (Game, {"row_payoffs": [[1]], "column_payoffs": [[1, 2]]}, "another shape"),
        (Game, {"row_payoffs": [[1] * 7], "column_payoffs": [[1] * 7]}, "6 strategies"),
        (Simulation, {"expression": "x", "variables": {}}, "variables"),
        (Simulation, {"expression": "x", "variables": {"x": {"distribution": "cauchy"}}}, "distribution"),
        (
            Simulation,
            {"expression": "x", "variables": {"x": {"distribution": "uniform", "low": 1, "high": 1}}},
            "low must be less than high",
        ),
        (
            Simulation,
            {"expression": "x", "variables": {"x": {"distribution": "discrete", "values": [1], "weights": [0]}}},
            "one weight for each value",
        ),
        (
            Simulation,
            {"expression": "x", "variables": {"x": {"distribution": "exponential", "mean": 1}}, "samples": 10**9},
            "samples",
        ),
        (Project, {"rate": -1, "cash_flows": [1]}, "rate"),
        (Project, {"rate": 0.1, "cash_flows": []}, "cash_flows"),
        (Project, {"rate": 0.1, "cash_flows": [1], "years": 3}, "years"),
    ],
)
def test_bad_input_is_refused_with_its_field(model, given, words):
    with pytest.raises(ValidationError) as caught:
        model.model_validate(given)
    assert words in str(caught.value)
