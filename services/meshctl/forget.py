"""`meshctl forget`: remove what was declared about a service that has left."""

import asyncio

import click

from agentmesh.control.v1 import control_service_pb2
from mesh.config import MeshSettings
from services.meshctl.connection import TIMEOUT, open_control


@click.command()
@click.argument("name")
@click.pass_obj
def forget(settings: MeshSettings, name: str) -> None:
    """Forget the service NAME, which has left: its kind and whom it may call. Refused while it has instances."""

    async def run() -> None:
        async with open_control(settings) as control:
            await control.ForgetService(control_service_pb2.ForgetServiceRequest(name=name), timeout=TIMEOUT)

    asyncio.run(run())
    click.echo(f"{name} is forgotten")
