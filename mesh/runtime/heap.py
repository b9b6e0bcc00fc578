"""How often a program with a large and lasting heap looks for garbage cycles."""

import gc

_YOUNG, _MIDDLE, _OLD = 50_000, 20, 20


def keep_heap() -> None:
    """Let collections come seldom, and pass over what there is by now.

    For programs that hold hundreds of thousands of objects for long and make few cycles: Python looks for cycles after
    each 700 new objects, and walks over the whole heap again and again (measured: a fifth of a control plane's time).
    Whatever is in no cycle is freed at once all the same.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
