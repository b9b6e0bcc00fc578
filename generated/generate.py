"""Generate the stubs of `protos/` into this folder: messages, gRPC stubs, and types for both.

Run it as `make stubs`. `generate(target)` writes the same tree elsewhere, so that a check can compare the two.
"""

import shutil
import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
PROTOS = HERE.parent / "protos"


def generate(target: Path) -> None:
    """Write `target/agentmesh/...` anew from `protos/`; raises RuntimeError when protoc refuses a file."""
    shutil.rmtree(target / "agentmesh", ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    files = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / "agentmesh").rglob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python")]
    outputs += [f"--{kind}_out=quiet:{target}" for kind in ("mypy", "mypy_grpc")]
    plugins = [
        f"--plugin={name}={Path(sys.executable).parent / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    ]
    if protoc.main(["protoc", f"-I{PROTOS}", f"-I{well_known}", *plugins, *outputs, *files]) != 0:
        raise RuntimeError("protoc failed; its message is above")
    for folder in {target / "agentmesh", *(p.parent for p in (target / "agentmesh").rglob("*.py"))}:
        for package in (folder, *folder.parents):
            if package == target:
                break
            (package / "__init__.py").touch()
    (target / "agentmesh" / "py.typed").touch()


if __name__ == "__main__":
    generate(HERE)
