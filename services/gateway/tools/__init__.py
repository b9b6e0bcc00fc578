"""What holds for calls of tools besides who may make them.

document ──> ToolPolicy ──rules_for(server, tool, roles)──> ToolRules
                                                               │
call ──> pin ──> arguments ──> guardrails ──> server ──> redaction ──> guardrails ──> host
"""

from services.gateway.tools.governor import Governor, ToolCall
from services.gateway.tools.guardrails import Guardrails
from services.gateway.tools.policy import ToolPolicy, ToolRules

__all__ = ["Governor", "Guardrails", "ToolCall", "ToolPolicy", "ToolRules"]
