"""What a call from outside asks for."""

from dataclasses import dataclass

GATEWAY = "gateway"
"""The service that stands for what the gateway itself serves."""
ANYTHING = "*"
"""Every tool, every skill, every method."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is called, in the words of rules.

    `service` is the mesh name; GATEWAY for what the gateway itself serves. `method` is PACKAGE.SERVICE/METHOD for gRPC
    and whatever is transcoded to it, and the path for other HTTP, such as "/graphql". `tool` is the tool of an MCP
    server that is called, `skill` the skill of an agent; "" where the call is about none, and "*" for a method through
    which any of them can be called, such as the raw link to an MCP server: only who may call all may call that.
    """

    service: str
    method: str
    tool: str = ""
    skill: str = ""

    def __str__(self) -> str:
        """SERVICE/METHOD, and the tool or the skill in brackets."""
        named = self.tool or self.skill
        return f"{self.service}/{self.method.lstrip('/')}" + (f"[{named}]" if named else "")
