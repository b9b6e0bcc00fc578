"""The layers that are files: defaults.yaml, and one file for each environment over it.

sidecar_config/defaults.yaml < sidecar_config/ENVIRONMENT.yaml
"""

import re
from pathlib import Path

from mesh.config.document.loading import Layer
from mesh.config.settings import CONFIG_DIR
from mesh.config.yaml_lines import MOST_BYTES
from mesh.errors import InvalidInput, NotFound

DEFAULTS = "defaults"
_ENVIRONMENT = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")
_NOT_LAYERS = (DEFAULTS, "bootstrap", "mesh")


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
