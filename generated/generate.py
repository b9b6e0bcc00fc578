"""Generate the stubs of `protos/` into this folder: messages, gRPC stubs, and types for both.

Run it as `make stubs`. `generate(target)` writes the same tree elsewhere, so that a check can compare the two.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc_tools
from google.protobuf.descriptor_pb2 import FileDescriptorSet
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
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "contracts.binpb")
        arguments = ("--include_source_info", f"--descriptor_set_out={found}", *files)
        if protoc.main(["protoc", f"-I{PROTOS}", f"-I{well_known}", *arguments]) != 0:
            raise RuntimeError("protoc failed; its message is above")
        comments = read_comments(FileDescriptorSet.FromString(found.read_bytes()))
    text = json.dumps(comments, indent=0, sort_keys=True, ensure_ascii=False)
    (target / "agentmesh" / "comments.json").write_text(text + "\n", encoding="utf-8")


def read_comments(contracts: FileDescriptorSet) -> dict[str, str]:
    """The comment of each service, method, message, enum, field and value, by its full name: stubs have none."""
    found: dict[str, str] = {}
    for file in contracts.file:
        for location in file.source_code_info.location:
            if location.leading_comments:
                name = ".".join((file.package, *_names(file, list(location.path))))
                found[name] = " ".join(location.leading_comments.split())
    return found


def _names(node: Any, path: list[int]) -> Iterator[str]:
    """The names on the way that a path of SourceCodeInfo goes: pairs of a field's number and a place in it."""
    while len(path) >= 2:
        field = node.DESCRIPTOR.fields_by_number[path[0]]
        node = getattr(node, field.name)[path[1]]
        yield node.name
        path = path[2:]


if __name__ == "__main__":
    generate(HERE)
