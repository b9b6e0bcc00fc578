"""The OpenAPI document, https://spec.openapis.org/oas/v3.1.1."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

import mesh
from mesh.rpc.contracts import PUBLIC, http_rule
from services.gateway.web.openapi.doors import DOORS, PROBLEM
from services.gateway.web.openapi.schemas import Schema, Schemas

_VERBS = ("get", "post", "put", "patch", "delete")
_NAMES = {"servers": ("server", "Mesh name of an MCP server."), "agents": ("agent", "Mesh name of an agent.")}
_VARIABLE = re.compile(r"\{([a-z_.]+)\}")

_ERRORS = {
    "400": "The request is wrong.",
    "401": "There is no credential, or it does not hold.",
    "403": "The credential does not allow it.",
    "404": "There is no such thing.",
    "429": "A limit is used up; see the header Retry-After.",
    "503": "The service does not answer.",
}


@cache
def build_openapi() -> dict[str, Any]:
    """The document of all public contracts, and of what the gateway serves beside them."""
    schemas = Schemas(read_comments())
    paths: dict[str, dict[str, Any]] = {}
    for service in PUBLIC:
        for method in service.methods:
            if (rule := http_rule(method)) is None:
                continue
            for verb in _VERBS:
                if template := getattr(rule, verb):
                    path, inserted = _name_service(template)
                    paths.setdefault(path, {})[verb] = _operation(schemas, method, path, inserted, rule.body)
    for path, item in DOORS.items():
        paths.setdefault(path, {}).update(item)
    schemas.made["Problem"] = PROBLEM
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "agentmesh",
            "version": mesh.__version__,
            "description": "Services, tools and agents of the mesh, as its edge serves them.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"key": []}, {"client": []}, {}],
        "tags": [{"name": service.name, "description": _comment(service.full_name)} for service in PUBLIC],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.made.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "client": {
                    "type": "oauth2",
                    "flows": {"clientCredentials": {"tokenUrl": "/oauth2/token", "scopes": {}}},
                },
            },
        },
    }


@cache
def read_comments() -> Mapping[str, str]:
    """The comments of the contracts by full name."""
    comments: dict[str, str] = json.loads(files("agentmesh").joinpath("comments.json").read_text(encoding="utf-8"))
    return comments


def _operation(
    schemas: Schemas, method: MethodDescriptor, path: str, inserted: list[Schema], body: str
) -> dict[str, Any]:
    request, response = method.input_type, method.output_type
    bound = set(_VARIABLE.findall(path)) - {parameter["name"] for parameter in inserted}
    parameters = [*inserted, *(_path_parameter(schemas, request, name) for name in sorted(bound))]
    operation: dict[str, Any] = {
        "operationId": f"{method.containing_service.name}_{method.name}",
        "tags": [method.containing_service.name],
        "summary": method.name,
        "description": _comment(method.full_name),
    }
    rest = [field for field in request.fields if field.name not in bound]
    if body == "*":
        operation["requestBody"] = _json_body(_without(schemas, request, bound))
    elif body:
        operation["requestBody"] = _json_body(schemas.of_field(request.fields_by_name[body]))
    else:
        parameters += [_query_parameter(schemas, field) for field in rest if field.message_type is None]
    result = schemas.of_message(response)
    if method.server_streaming:
        result = {"type": "array", "items": result}
    ok: dict[str, Any] = {"description": "Done." if not method.server_streaming else "The messages, as they come."}
    ok["content"] = {"application/json": {"schema": result}}
    if parameters:
        operation["parameters"] = parameters
    operation["responses"] = {"200": ok, **_problems()}
    return operation


def _problems() -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        **{status: {"description": text, "content": content} for status, text in _ERRORS.items()},
        "default": {"description": "Another error.", "content": content},
    }


def _name_service(template: str) -> tuple[str, list[Schema]]:
    """The path with a name for the segment that says which service is meant."""
    parameters: list[Schema] = []

    def parts() -> Iterator[str]:
        before = ""
        for part in template.split("/"):
            kind, star, verb = part.partition("*")
            if not star or kind:
                yield part
            else:
                name, description = _NAMES[before]
                parameters.append(
                    {
                        "name": name,
                        "in": "path",
                        "required": True,
                        "description": description,
                        "schema": {"type": "string", "pattern": "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"},
                    }
                )
                yield f"{{{name}}}{verb}"
            before = part

    return "/".join(parts()), parameters


def _path_parameter(schemas: Schemas, request: Descriptor, name: str) -> Schema:
    field = request.fields_by_name[name]
    schema = schemas.of_field(field)
    description = schema.pop("description", "")
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema | ({"minLength": 1} if schema.get("type") == "string" else {}),
    }


def _query_parameter(schemas: Schemas, field: FieldDescriptor) -> Schema:
    schema = schemas.of_field(field)
    description = schema.pop("description", "")
    return {"name": field.json_name, "in": "query", "description": description, "schema": schema}


def _without(schemas: Schemas, request: Descriptor, bound: set[str]) -> Schema:
    if not bound:
        return schemas.of_message(request)
    properties = {field.json_name: schemas.of_field(field) for field in request.fields if field.name not in bound}
    return {"type": "object", "properties": properties}


def _json_body(schema: Schema) -> Schema:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _comment(name: str) -> str:
    return read_comments().get(name, "")
