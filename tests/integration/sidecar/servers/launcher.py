"""A launcher as a process of its own: runs the echo server as a member until it is killed; tells no registry."""

import asyncio
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mesh.model import Address
from mesh.sidecar import MemberSettings, open_member


class NoRegistry:
    async def register(self, instance: Any, check: Any) -> None:
        return

    async def deregister(self, instance_id: str) -> None:
        return

    async def renew(self, instance_id: str) -> bool:
        return True

    async def is_registered(self, instance_id: str) -> bool:
        return True

    def watch(self) -> Any:
        raise NotImplementedError


async def main() -> None:
    given = json.loads(sys.argv[1])
    settings = MemberSettings(
        service="echo",
        kind="service",
        instance=given["instance"],
        state_dir=Path(given["state_dir"]),
        control_planes=(Address.parse(given["control"]),),
        enrolment=Address.parse(given["enrolment"]),
        trust_domain=given["trust_domain"],
        command=tuple(given["command"]),
    )

    async def token() -> str:
        return str(given["token"])

    async with open_member(settings, token=token, registry=lambda _: nullcontext(NoRegistry())):
        print("ready", flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
