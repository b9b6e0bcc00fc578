"""`meshctl config`: look into mesh documents without a running mesh."""

import json
import sys
from pathlib import Path

import click

from mesh.config import MeshSettings
from mesh.config.document import Layer, check_references, load_document
from mesh.config.document.files import environment_layers, read_layer_file
from mesh.config.document.printing import mask, masked_origins, to_yaml
from mesh.config.document.schema import schema_text
from mesh.errors import DocumentInvalid, Fault
from services.meshctl.failures import USAGE
from services.meshctl.output import output_option, print_json, print_table, show

_environment_option = click.option(
    "--environment", help="Whose layers lie below.  [default: $MESH_ENVIRONMENT or dev]", metavar="NAME"
)
_file_argument = click.Path(dir_okay=False, path_type=Path)


@click.group()
def config() -> None:
    """Look into mesh documents: what routes, retries, limits and intentions say."""


@config.command("show")
@_environment_option
@click.option("--file", "file", type=_file_argument, help="A document to lay over those of the environment.")
@click.option("--origin", is_flag=True, help="Tell for each value which layer and line set it; built-in ones, too.")
@output_option
@click.pass_obj
def show_document(
    settings: MeshSettings, environment: str | None, file: Path | None, origin: bool, output: str
) -> None:
    """Print the document that the layers on this machine make; secrets are masked."""
    loaded = load_document(_layers(settings, environment, file))
    if not origin:
        values = mask(loaded.document)
        show(output, values, lambda: click.echo(to_yaml(values), nl=False))
        return
    rows = [(name, value, set_by.layer, set_by.source, set_by.line) for name, value, set_by in masked_origins(loaded)]
    if output == "json":
        print_json([dict(zip(("field", "value", "layer", "source", "line"), row, strict=True)) for row in rows])
        return
    table = [
        (field, json.dumps(value, ensure_ascii=False), layer, f"{source}:{line}" if line else "")
        for field, value, layer, source, line in rows
    ]
    print_table(("field", "value", "layer", "where"), table, empty="The document is empty.")


@config.command()
@click.argument("file", type=_file_argument)
@_environment_option
@output_option
@click.pass_obj
def validate(settings: MeshSettings, file: Path, environment: str | None, output: str) -> None:
    """Tell what is wrong with the document in FILE, laid over those of the environment. Exit status 2: something is.

    Which services there are is known to the running mesh only; names of services are not looked up here.
    """
    faults = _faults(settings, file, environment)
    if output == "json":
        records = [{"source": it.source, "line": it.line, "field": it.field, "reason": it.reason} for it in faults]
        print_json({"valid": not faults, "faults": records})
    if faults:
        for fault in faults if output != "json" else ():
            click.echo(str(fault), err=True)
        sys.exit(USAGE)
    if output != "json":
        click.echo(f"{file} is valid.")


@config.command()
def schema() -> None:
    """Print the JSON Schema of mesh documents, for editors."""
    click.echo(schema_text(), nl=False)


def _layers(settings: MeshSettings, environment: str | None, file: Path | None) -> tuple[Layer, ...]:
    below = environment_layers(environment or settings.environment, settings.config_dir)
    return below if file is None else (*below, Layer("file", str(file), read_layer_file(file)))


def _faults(settings: MeshSettings, file: Path, environment: str | None) -> tuple[Fault, ...]:
    try:
        return check_references(load_document(_layers(settings, environment, file)), None)
    except DocumentInvalid as err:
        return err.faults
