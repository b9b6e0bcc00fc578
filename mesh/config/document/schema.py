"""The JSON Schema of the document, for editors: `python -m mesh.config.document.schema` writes it anew."""

import json

import click
from pydantic.json_schema import GenerateJsonSchema

from mesh.config.document.models import MeshDocument
from mesh.config.settings import CONFIG_DIR

SCHEMA_FILE = CONFIG_DIR / "mesh-document.schema.json"


class _Generator(GenerateJsonSchema):
    # Empty mappings of ours; that they are the default goes without saying.
    ignored_warning_kinds = {*GenerateJsonSchema.ignored_warning_kinds, "non-serializable-default"}  # noqa: RUF012


def schema_text() -> str:
    """The schema as JSON, as the repository publishes it."""
    schema = MeshDocument.model_json_schema(schema_generator=_Generator)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "agentmesh mesh document"}
    return json.dumps({**head, **{key: schema[key] for key in schema if key != "title"}}, indent=1) + "\n"


def main() -> None:
    """Write the schema into the repository."""
    SCHEMA_FILE.write_text(schema_text())
    click.echo(f"wrote {SCHEMA_FILE.name}")


if __name__ == "__main__":
    main()
