"""The layers that are files: defaults.yaml, and one file for each environment over it.

sidecar_config/defaults.yaml < sidecar_config/ENVIRONMENT.yaml
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from mesh.config.document.loading import Layer
from mesh.config.settings import CONFIG_DIR
from mesh.config.yaml_lines import MOST_BYTES
from mesh.errors import InvalidInput, NotFound
from mesh.telemetry import get_logger

DEFAULTS = "defaults"
POLL_SECONDS = 0.5
_ENVIRONMENT = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")
_NOT_LAYERS = (DEFAULTS, "bootstrap", "mesh")

_log = get_logger(__name__)

_Stamp = tuple[int, int, int] | None


def environment_layers(environment: str, directory: Path = CONFIG_DIR) -> tuple[Layer, ...]:
    """The layers of an environment, from the lowest to the highest.

    Raises NotFound that names the environments that there are, InvalidInput for a file that cannot be read.
    """
    paths = environment_files(environment, directory)
    return tuple(Layer(path.stem, str(path), read_layer_file(path)) for path in paths)


def environment_files(environment: str, directory: Path = CONFIG_DIR) -> tuple[Path, ...]:
    """The files of an environment, from the lowest layer to the highest; raises NotFound when there is no such one."""
    path = directory / f"{environment}.yaml"
    if _ENVIRONMENT.fullmatch(environment) is None or environment in _NOT_LAYERS or not path.is_file():
        there = sorted(each.stem for each in directory.glob("*.yaml") if each.stem not in _NOT_LAYERS)
        raise NotFound(
            f"There is no environment {environment!r} in {directory}.",
            reason="UNKNOWN_ENVIRONMENT",
            field="MESH_ENVIRONMENT",
            fix=f"Use one of {', '.join(there)}." if there else "Put its file there.",
        )
    return directory / f"{DEFAULTS}.yaml", path


def read_layer_file(path: Path) -> str:
    """The text of a layer's file; raises InvalidInput when it cannot be read, is no text or is too large."""
    fix = "Give the path of a mesh document."
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        return content.decode()
    except OSError as err:
        raise InvalidInput(f"{path} cannot be read: {err.strerror or err}.", field="mesh document", fix=fix) from err
    except UnicodeDecodeError as err:
        if len(content) > MOST_BYTES:
            # Cut in the middle of a character; that it is too long is told by who reads the text.
            return content.decode(errors="replace")
        raise InvalidInput(f"{path} is not text in UTF-8.", field="mesh document", fix="Save it as UTF-8.") from err


async def watch_files(paths: Sequence[Path], *, interval: float = POLL_SECONDS) -> AsyncIterator[Mapping[Path, str]]:
    """Give the texts of files at once, and again whenever one of them has changed; latest wins.

    Files are looked at every `interval` seconds: that also works on network file systems and for a folder that is
    replaced, where inotify is silent. A file that is being written is not taken: it must be the same at two looks in a
    row. A file that is gone or cannot be read any more keeps the text that it had: policies do not vanish by accident.
    Raises InvalidInput when one cannot be read at first. Ends when it is cancelled.
    """
    seen = settled = await asyncio.to_thread(_stamps, paths)
    texts = {path: await asyncio.to_thread(read_layer_file, path) for path in paths}
    yield dict(texts)
    while True:
        await asyncio.sleep(interval)
        now = await asyncio.to_thread(_stamps, paths)
        if now == seen and now != settled:
            fresh = {path: await asyncio.to_thread(_read, path, text) for path, text in texts.items()}
            # What changed while it was read is read again.
            if await asyncio.to_thread(_stamps, paths) == now:
                settled = now
                if fresh != texts:
                    texts = fresh
                    yield dict(texts)
        seen = now


def _read(path: Path, last: str) -> str:
    try:
        return read_layer_file(path)
    except InvalidInput as err:
        _log.warning("layer_kept", path=str(path), error=str(err))
        return last


def _stamps(paths: Sequence[Path]) -> tuple[_Stamp, ...]:
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
