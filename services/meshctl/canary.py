"""`meshctl canary`: take a new version of a service into use step by step."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, timedelta
from typing import Any

import click
import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict

from agentmesh.rollout.v1 import canary_pb2, canary_service_pb2, canary_service_pb2_grpc
from mesh.config import MeshSettings
from mesh.config.document import duration_text, parse_duration
from mesh.rpc import error_from_rpc, open_target
from services.meshctl.amount import Amount
from services.meshctl.connection import TIMEOUT, no_mesh
from services.meshctl.failures import FAILED
from services.meshctl.output import ago, output_option, print_json, print_table, show

_END_TIMEOUT = 30.0
_YEAR = timedelta(days=365)
_PHASES = {
    canary_pb2.CANARY_PHASE_RUNNING: "running",
    canary_pb2.CANARY_PHASE_PROMOTED: "promoted",
    canary_pb2.CANARY_PHASE_ABORTED: "aborted",
}

_SERVICE = click.argument("service")


class _DurationType(click.ParamType[timedelta]):
    """A duration such as 250ms, 30s or 1m30s."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        try:
            parsed = parse_duration(value)
        except ValueError as err:
            self.fail(f"{value!r}: {err}.", param, ctx)
        if not isinstance(parsed, timedelta) or parsed <= timedelta(0):
            self.fail(f"{value!r} is not longer than 0.", param, ctx)
        return parsed


class _PercentType(click.ParamType[float]):
    """A share such as 1% or 0.5%; the sign may be left out."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(str(value).removesuffix("%"))
        except ValueError:
            number = math.nan
        if not 0 <= number <= 100:
            self.fail(f"{value!r} is no share from 0% to 100%.", param, ctx)
        return number


class _StepsType(click.ParamType[tuple[int, ...]]):
    """Percentages such as 5,25,50,100."""

    name = "steps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = [word.strip().removesuffix("%") for word in str(value).split(",")]
        if not all(word.isascii() and word.isdigit() and len(word) < 4 for word in words):
            self.fail(f"{value!r} is no list of percentages such as 5,25,50,100.", param, ctx)
        return tuple(int(word) for word in words)


@click.group()
def canary() -> None:
    """Take a new version of a service into use step by step; one that does worse is given up by itself.

    The versions are subsets of the service in the mesh document. Both must run: `meshctl run service NAME --version V`.
    """


@canary.command()
@_SERVICE
@click.option("--from", "stable", required=True, help="The subset that gets all requests now.")
@click.option("--to", "candidate", required=True, help="The subset that is to get them.")
@click.option(
    "--steps", type=_StepsType(), default="5,25,50,100", show_default=True, help="Its shares; 100 alone is blue-green."
)
@click.option(
    "--interval", type=_DurationType(), default="30s", show_default=True, help="How long each step must do well."
)
@click.option(
    "--max-errors", type=_PercentType(), default="1%", show_default=True, help="Above it, the canary is aborted."
)
@click.option("--max-p99", type=_DurationType(), help="Aborted when 1 % of the answers take longer.")
@click.option("--max-p99-ratio", type=Amount(1000.0), help="Aborted when its p99 is this many times that of --from.")
@click.option(
    "--min-requests",
    type=click.IntRange(1, 1_000_000),
    default=50,
    show_default=True,
    help="No step passes with fewer.",
)
@click.option("--watch", is_flag=True, help="Show how it goes until it has ended.")
@output_option
@click.pass_obj
def start(
    settings: MeshSettings,
    service: str,
    stable: str,
    candidate: str,
    steps: tuple[int, ...],
    interval: timedelta,
    max_errors: float,
    max_p99: timedelta | None,
    max_p99_ratio: float | None,
    min_requests: int,
    watch: bool,
    output: str,
) -> None:
    """Start a canary of SERVICE. Steps pass by themselves; the last one makes the new subset the stable one."""
    plan = canary_pb2.CanaryPlan(
        service=service,
        stable=stable,
        candidate=candidate,
        steps=steps,
        interval=_duration(interval),
        max_error_percent=max_errors,
        min_requests=min_requests,
        max_p99=_duration(max_p99) if max_p99 is not None else None,
        max_p99_ratio=max_p99_ratio or 0.0,
    )

    async def ask(stub: Any) -> canary_pb2.Canary:
        response = await stub.StartCanary(canary_service_pb2.StartCanaryRequest(plan=plan), timeout=TIMEOUT)
        return _canary_of(response)

    found = asyncio.run(_call(settings, ask))
    if watch:
        _watch(settings, service, output)
    else:
        _show(found, output)


@canary.command()
@_SERVICE
@output_option
@click.pass_obj
def promote(settings: MeshSettings, service: str, output: str) -> None:
    """Give all requests to the new version now."""

    async def ask(stub: Any) -> canary_pb2.Canary:
        request = canary_service_pb2.PromoteCanaryRequest(service=service)
        return _canary_of(await stub.PromoteCanary(request, timeout=_END_TIMEOUT))

    _show(asyncio.run(_call(settings, ask)), output)


@canary.command()
@_SERVICE
@click.option("--reason", default="", help="Why; it is kept in the history.")
@output_option
@click.pass_obj
def abort(settings: MeshSettings, service: str, reason: str, output: str) -> None:
    """Give all requests back to the old version now."""

    async def ask(stub: Any) -> canary_pb2.Canary:
        request = canary_service_pb2.AbortCanaryRequest(service=service, reason=reason)
        return _canary_of(await stub.AbortCanary(request, timeout=_END_TIMEOUT))

    _show(asyncio.run(_call(settings, ask)), output)


@canary.command()
@_SERVICE
@click.option("--watch", is_flag=True, help="Show how it goes until it has ended.")
@output_option
@click.pass_obj
def status(settings: MeshSettings, service: str, watch: bool, output: str) -> None:
    """Show the newest canary of SERVICE. With --watch the exit status is 1 when it is aborted."""
    if watch:
        _watch(settings, service, output)
        return

    async def ask(stub: Any) -> canary_pb2.Canary:
        return _canary_of(await stub.GetCanary(canary_service_pb2.GetCanaryRequest(service=service), timeout=TIMEOUT))

    _show(asyncio.run(_call(settings, ask)), output)


@canary.command("list")
@output_option
@click.pass_obj
def list_(settings: MeshSettings, output: str) -> None:
    """Show the canaries that run and those that have ended, newest first."""

    async def ask(stub: Any) -> list[canary_pb2.Canary]:
        response = await stub.ListCanaries(canary_service_pb2.ListCanariesRequest(), timeout=TIMEOUT)
        return list(response.canaries)

    found = asyncio.run(_call(settings, ask))
    rows = [
        (
            it.plan.service,
            f"{it.plan.stable} -> {it.plan.candidate}",
            _PHASES.get(it.phase, "?"),
            f"{it.steps[-1].percent} %" if it.steps else "-",
            ago(it.start_time.ToDatetime(tzinfo=UTC)),
            it.cause or "-",
        )
        for it in found
    ]
    columns = ("service", "versions", "phase", "share", "started", "cause")
    show(output, [_plain(it) for it in found], lambda: print_table(columns, rows, empty="No canaries."))


def _watch(settings: MeshSettings, service: str, output: str) -> None:
    """Print every change until the end; a line per change for people, a JSON document per change for programs."""

    async def follow(stub: Any) -> canary_pb2.Canary:
        last = canary_pb2.Canary()
        said = ""
        async for response in stub.WatchCanary(canary_service_pb2.WatchCanaryRequest(service=service)):
            last = _canary_of(response)
            line = _line(last)
            if output == "json":
                print_json(_plain(last))
            elif line != said:
                click.echo(line)
            said = line
        return last

    last = asyncio.run(_call(settings, follow))
    if last.phase == canary_pb2.CANARY_PHASE_ABORTED:
        raise SystemExit(FAILED)


def _line(found: canary_pb2.Canary) -> str:
    """The present step in one line, or how it has ended."""
    phase = _PHASES.get(found.phase, "?")
    step = found.steps[-1]
    if found.phase != canary_pb2.CANARY_PHASE_RUNNING:
        return (
            f"{phase}: {found.cause.rstrip('.')}; {step.percent} % to {found.plan.candidate} (revision {step.revision})"
        )
    figures = [f"{name}: {_load_text(load)}" for name, load in _loads(found, step)]
    waiting = f"  waits for {found.waiting_for}" if found.waiting_for else ""
    return f"{step.percent:3d} %  {'  '.join(figures)}{waiting}"


def _loads(found: canary_pb2.Canary, step: canary_pb2.CanaryStep) -> list[tuple[str, canary_pb2.CanaryLoad]]:
    return [(found.plan.candidate, step.candidate), (found.plan.stable, step.stable)]


def _load_text(load: canary_pb2.CanaryLoad) -> str:
    if not load.requests:
        return "no requests"
    return f"{load.requests} requests, {_failed(load)} failed, p99 {_p99(load)}"


def _failed(load: canary_pb2.CanaryLoad) -> str:
    return f"{load.failed} ({100 * load.failed / load.requests:.1f} %)" if load.requests else "-"


def _p99(load: canary_pb2.CanaryLoad) -> str:
    if not load.HasField("p99"):
        return "-"
    took = load.p99.ToTimedelta()
    return "no answer" if took >= _YEAR else duration_text(took)


def _show(found: canary_pb2.Canary, output: str) -> None:
    def render() -> None:
        plan = found.plan
        click.echo(
            f"{plan.service}: {plan.stable} -> {plan.candidate}, {_PHASES.get(found.phase, '?')}, by {found.author}"
        )
        bounds = [f"at most {plan.max_error_percent:g} % errors"]
        if plan.HasField("max_p99"):
            bounds.append(f"p99 at most {duration_text(plan.max_p99.ToTimedelta())}")
        if plan.max_p99_ratio:
            bounds.append(f"p99 at most {plan.max_p99_ratio:g} times that of {plan.stable}")
        steps = ", ".join(map(str, plan.steps))
        interval = duration_text(plan.interval.ToTimedelta())
        click.echo(f"steps {steps} %, {interval} and {plan.min_requests} requests each; {', '.join(bounds)}")
        rows = [
            (
                f"{step.percent} %",
                step.revision or "-",
                ago(step.start_time.ToDatetime(tzinfo=UTC)),
                *(cell for _, load in _loads(found, step) for cell in (load.requests, _failed(load), _p99(load))),
            )
            for step in found.steps
        ]
        heads = (f"{name} {what}" for name in (plan.candidate, plan.stable) for what in ("requests", "failed", "p99"))
        print_table(("share", "revision", "began", *heads), rows, empty="")
        if found.cause:
            click.echo(found.cause)
        elif found.waiting_for:
            click.echo(f"waits for {found.waiting_for}")

    show(output, _plain(found), render)


def _plain(found: canary_pb2.Canary) -> dict[str, Any]:
    return MessageToDict(found, preserving_proto_field_name=True)


def _canary_of(response: Any) -> canary_pb2.Canary:
    found: canary_pb2.Canary = response.canary
    return found


def _duration(value: timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(value)
    return duration


async def _call(settings: MeshSettings, ask: Callable[[Any], Awaitable[Any]]) -> Any:
    async with _open_canaries(settings) as stub:
        return await ask(stub)


@asynccontextmanager
async def _open_canaries(settings: MeshSettings) -> AsyncIterator[Any]:
    """CanaryService of the running mesh; raises Unavailable that says how to start one."""
    if not settings.admin_socket.exists():
        raise no_mesh(settings)
    async with open_target(f"unix:{settings.admin_socket}", authority="control-plane.mesh") as channel:
        try:
            yield canary_service_pb2_grpc.CanaryServiceStub(channel)
        except grpc.aio.AioRpcError as err:
            if err.code() is grpc.StatusCode.UNAVAILABLE:
                raise no_mesh(settings) from err
            raise error_from_rpc(err) from err
