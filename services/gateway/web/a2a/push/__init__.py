"""Push notifications of A2A: who follows a task without a connection is sent its changes by HTTP.

    handler ──> PushOperations ──> PushConfigs ──> storage that gateways share <── Pushers <── every gateway
                                                   agent ──WatchTask──> Pushers ──> Webhook ──POST──> client

May import what the package above may.
"""

from services.gateway.web.a2a.push.configs import PushConfigs
from services.gateway.web.a2a.push.operations import PushOperations
from services.gateway.web.a2a.push.pushers import Pushers
from services.gateway.web.a2a.push.webhook import Webhook

__all__ = ["PushConfigs", "PushOperations", "Pushers", "Webhook"]
