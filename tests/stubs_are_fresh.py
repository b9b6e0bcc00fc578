"""Fail when `generated/` is not what `make stubs` would write."""

import filecmp
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "generated"))

from generate import generate  # noqa: E402  (the generator lives beside what it generates)


def files_of(tree: Path) -> set[Path]:
    """All files below `tree` but Python's caches, relative to it."""
    return {p.relative_to(tree) for p in tree.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


def stale_files(committed: Path, fresh: Path) -> list[str]:
    """The files that differ between the two trees, sorted."""
    names = files_of(committed) | files_of(fresh)
    both = [name for name in names if (committed / name).is_file() and (fresh / name).is_file()]
    equal, _, _ = filecmp.cmpfiles(committed, fresh, [str(name) for name in both], shallow=False)
    return sorted(str(name) for name in names if str(name) not in equal)


def main() -> int:
    """Print what is stale; the exit status is 1 when anything is."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        stale = stale_files(ROOT / "generated" / "agentmesh", Path(folder) / "agentmesh")
    for name in stale:
        print(f"stale: generated/agentmesh/{name}")
    if stale:
        print("Run `make stubs` and commit the result.")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
