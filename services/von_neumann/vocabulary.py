"""The functions and constants that formulas may have, known without the libraries that compute them."""

from services.von_neumann.expressions import MAX_NODES, Vocabulary

_ELEMENTARY = ("sin", "cos", "tan", "exp", "log", "ln", "sqrt", "abs", "floor", "ceil", "sign", "min", "max")
_MORE = ("asin", "acos", "atan", "sinh", "cosh", "tanh", "erf")

ARITIES = {"log": (1, 2), "min": (1, MAX_NODES), "max": (1, MAX_NODES)}

SYMBOLIC = Vocabulary(
    functions=frozenset((*_ELEMENTARY, *_MORE, "factorial", "gamma")),
    constants=frozenset(("pi", "e", "E", "I", "oo", "inf")),
    arities=ARITIES,
)
NUMERIC = Vocabulary(
    functions=frozenset((*_ELEMENTARY, *_MORE)), constants=frozenset(("pi", "e", "E")), arities=ARITIES
)
