"""Lets submodules of the `mcp` SDK be imported without the whole SDK.

`import mcp.client.session` first runs `mcp/__init__.py` and `mcp/client/__init__.py`, which import the SDK's servers,
starlette, uvicorn, httpx2 and its OAuth code: 17 MB and 240 modules that a client over pipes never uses (measured on
mcp 2.3.0). Here the two packages are put into `sys.modules` with their bodies not yet run; the body runs when somebody
first asks for a name that only it can give, so `mcp.Client` or `from mcp import ClientSession` work as ever.
`importlib.util.LazyLoader` does not serve: it runs the body on any attribute, `__path__` included.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any

_PACKAGES = ("mcp", "mcp.client")


class _DeferredPackage(ModuleType):
    """A package whose `__init__.py` has not run yet."""

    def __getattr__(self, name: str) -> Any:
        # The import system probes dunder names; they must not wake the package.
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]  # from here on an ordinary, initialising package
        spec = self.__spec__
        if spec is None or spec.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        spec.loader.exec_module(self)
        return getattr(self, name)


def defer_package_bodies() -> None:
    """Put the SDK's packages into `sys.modules` unless they are there. Called again, it does nothing."""
    for name in _PACKAGES:
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue  # the import that follows tells what is missing
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _DeferredPackage
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


defer_package_bodies()
