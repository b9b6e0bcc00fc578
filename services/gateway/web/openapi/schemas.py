"""Messages of protobuf as JSON Schema, by the JSON mapping of proto3: https://protobuf.dev/programming-guides/json."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

Schema = dict[str, Any]

_SCALARS: Mapping[int, Schema] = {
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}
_INT32 = {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SFIXED32}
_UINT32 = {FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32}

_WELL_KNOWN: Mapping[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?\d+(\.\d{1,9})?s$", "examples": ["1.5s"]},
    "google.protobuf.Any": {"type": "object", "properties": {"@type": {"type": "string"}}},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Empty": {"type": "object"},
    "google.api.HttpBody": {},
}


class Schemas:
    """Schemas of messages and enums, each made once and referred to by its name."""

    def __init__(self, comments: Mapping[str, str]) -> None:
        self.made: dict[str, Schema] = {}
        self._comments = comments

    def of_message(self, message: Descriptor) -> Schema:
        """A reference to the schema of a message."""
        if message.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[message.full_name])
        if message.full_name not in self.made:
            self.made[message.full_name] = {}
            self.made[message.full_name] = self._described(
                {
                    "type": "object",
                    "properties": {field.json_name: self.of_field(field) for field in message.fields},
                },
                message.full_name,
            )
        return {"$ref": f"#/components/schemas/{message.full_name}"}

    def of_field(self, field: FieldDescriptor) -> Schema:
        """The schema of a field, with its comment."""
        return self._described(self._shape(field), field.full_name)

    def _shape(self, field: FieldDescriptor) -> Schema:
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self._single(message.fields_by_name["value"])}
        single = self._single(field)
        return {"type": "array", "items": single} if field.is_repeated else single

    def _single(self, field: FieldDescriptor) -> Schema:
        if field.message_type is not None:
            return self.of_message(field.message_type)
        if field.enum_type is not None:
            return self._of_enum(field.enum_type)
        if field.type in _INT32:
            return {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
        if field.type in _UINT32:
            return {"type": "integer", "format": "uint32", "minimum": 0, "maximum": 2**32 - 1}
        # Integers of 64 bits are texts, as JSON's numbers cannot hold them.
        return dict(_SCALARS.get(field.type, {"type": "string", "pattern": r"^-?\d+$"}))

    def _of_enum(self, enum: EnumDescriptor) -> Schema:
        if enum.full_name not in self.made:
            values = [value.name for value in enum.values]
            self.made[enum.full_name] = self._described({"type": "string", "enum": values}, enum.full_name)
        return {"$ref": f"#/components/schemas/{enum.full_name}"}

    def _described(self, schema: Schema, name: str) -> Schema:
        comment = self._comments.get(name)
        return schema | {"description": comment} if comment else schema
