"""What the gateway serves over HTTP that no contract describes."""

from typing import Any

PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "Problem details, RFC 9457.",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was wrong, and what to do."},
        "reason": {"type": "string", "description": "Stable, in UPPER_SNAKE_CASE."},
        "correlation_id": {"type": "string", "description": "As in the logs and in the audit."},
    },
}

_PROBLEM_CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def _answers(schema: dict[str, Any], media_type: str = "application/json") -> dict[str, Any]:
    return {
        "200": {"description": "Done.", "content": {media_type: {"schema": schema}}},
        "default": {"description": "An error.", "content": _PROBLEM_CONTENT},
    }


_TOKENS = {
    "type": "object",
    "properties": {
        "access_token": {"type": "string"},
        "token_type": {"const": "Bearer"},
        "expires_in": {"type": "integer", "description": "Seconds."},
        "refresh_token": {"type": "string"},
    },
}
_DEVICE_CODE = {
    "type": "object",
    "properties": {
        "device_code": {"type": "string", "description": "A secret of the device, for /oauth2/token of this gateway."},
        "user_code": {"type": "string", "description": "For the person."},
        "verification_uri": {"type": "string"},
        "expires_in": {"type": "integer", "description": "Seconds."},
        "interval": {"type": "integer", "description": "Seconds between two questions."},
    },
}
_OAUTH_ERROR = {
    "description": "An error, RFC 6749, section 5.2.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {"error": {"type": "string"}, "error_description": {"type": "string"}},
            }
        }
    },
}


def _form(*fields: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {field: {"type": "string"} for field in fields}}
    return {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}}


DOORS: dict[str, Any] = {
    "/oauth2/token": {
        "post": {
            "operationId": "token",
            "tags": ["Access"],
            "summary": "Tokens for an API key (client_credentials), a refresh token or a device code, RFC 6749, 8628.",
            "security": [],
            "requestBody": _form("grant_type", "client_id", "client_secret", "refresh_token", "device_code"),
            "responses": {**_answers(_TOKENS), "400": _OAUTH_ERROR, "401": _OAUTH_ERROR, "429": _OAUTH_ERROR},
        }
    },
    "/oauth2/revoke": {
        "post": {
            "operationId": "revokeToken",
            "tags": ["Access"],
            "summary": "End a login, RFC 7009.",
            "security": [],
            "requestBody": _form("token"),
            "responses": {**_answers({"type": "object"}), "400": _OAUTH_ERROR},
        }
    },
    "/oauth2/device_authorization": {
        "post": {
            "operationId": "authorizeDevice",
            "tags": ["Access"],
            "summary": "A code with which a person logs a device in at /oauth2/device, RFC 8628.",
            "security": [],
            "requestBody": _form("client_id"),
            "responses": {**_answers(_DEVICE_CODE), "400": _OAUTH_ERROR, "429": _OAUTH_ERROR},
        }
    },
    "/v1/auth/login": {
        "post": {
            "operationId": "login",
            "tags": ["Access"],
            "summary": "Tokens for a user's password.",
            "security": [],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["user", "password"],
                            "properties": {"user": {"type": "string"}, "password": {"type": "string"}},
                        }
                    }
                },
            },
            "responses": _answers(_TOKENS),
        }
    },
    "/v1/cache/{service}": {
        "delete": {
            "operationId": "purge",
            "tags": ["Cache"],
            "summary": "Give no answer of a service any more that is kept for a time by rules of edge.cache.",
            "parameters": [{"name": "service", "in": "path", "required": True, "schema": {"type": "string"}}],
            "responses": {
                "204": {"description": "Done."},
                "default": {"description": "An error.", "content": _PROBLEM_CONTENT},
            },
        }
    },
    "/v1/auth/whoami": {
        "get": {
            "operationId": "whoami",
            "tags": ["Access"],
            "summary": "Who one is, and which roles one has.",
            "responses": _answers(
                {
                    "type": "object",
                    "properties": {
                        "principal": {"type": "string"},
                        "kind": {"type": "string"},
                        "name": {"type": "string"},
                        "roles": {"type": "array", "items": {"type": "string"}},
                    },
                }
            ),
        }
    },
    "/.well-known/jwks.json": {
        "get": {
            "operationId": "jwks",
            "tags": ["Access"],
            "summary": "The public keys of the token issuer, RFC 7517.",
            "security": [],
            "responses": _answers({"type": "object"}, "application/jwk-set+json"),
        }
    },
}
