"""Envoy itself takes what we build, over mutual TLS ADS and as a file, and finds no fault in it."""

import asyncio

import pytest

from mesh.model import Address, Declaration
from mesh.rpc.envoy_descriptors import envoy_binary
from mesh.xds import names
from mesh.xds.reconcile import Reconciler

SHORT = {short: url for url, short in names.SHORT_NAMES.items()}


def settled(ads, count=1):
    """True when each proxy has acknowledged the newest response of each type."""
    proxies = ads.proxies()
    return len(proxies) == count and all(
        {kind.type for kind in proxy.resources} | {"extension"} == set(SHORT)
        and all(kind.acked_version == kind.sent_version != "" for kind in proxy.resources)
        for proxy in proxies
    )


KINDS = ["sidecar", "gateway", "exposed_health", "pure_client"]


@pytest.mark.parametrize("kind", KINDS)
async def test_envoy_takes_all_that_each_kind_of_proxy_gets(
    kind, serve, authority, store, specs, open_envoy, eventually_true, refusals
):
    spec = specs[kind]
    if not store.current.upstreams_of(spec.service):
        store.set_declarations(
            {**store.current.declarations, spec.service: Declaration(spec.service, "service", ("caller",))}
        )
    async with serve(store) as (ads, control), open_envoy(spec, control) as envoy:

        async def is_settled():
            return settled(ads)

        await eventually_true(is_settled)
        assert refusals(ads) == []
        wanted = Reconciler().sidecar_snapshot(store.current, spec)
        for short in ("cluster", "listener", "route"):
            found = {name: resource.version for name, resource in wanted.of(SHORT[short]).items()}
            assert await envoy.has(short) == found


@pytest.mark.parametrize("kind", KINDS)
async def test_envoy_finds_no_fault_in_the_same_configuration_without_a_control_plane(
    kind, write_bootstrap, store, specs, to_dict
):
    """`--mode validate` looks at static resources only, so routes go into listeners, endpoints into clusters."""
    spec = specs[kind]
    snapshot = Reconciler().sidecar_snapshot(store.current, spec)

    def to_static(bootstrap):
        del bootstrap["dynamic_resources"]["lds_config"], bootstrap["dynamic_resources"]["cds_config"]
        found = {url: {n: to_dict(r) for n, r in snapshot.of(url).items()} for url in names.PUSH_ORDER}
        for listener in found[names.LISTENER].values():
            manager = listener["filter_chains"][0]["filters"][-1]["typed_config"]
            if rds := manager.pop("rds", None):
                manager["route_config"] = found[names.ROUTE][rds["route_config_name"]] | {"validate_clusters": True}
        for cluster in found[names.CLUSTER].values():
            if cluster.pop("eds_cluster_config", None):
                cluster |= {"type": "STATIC", "load_assignment": found[names.ENDPOINT][cluster["name"]]}
        bootstrap["static_resources"]["clusters"] += found[names.CLUSTER].values()
        bootstrap["static_resources"]["listeners"] = list(found[names.LISTENER].values())

    path = write_bootstrap(spec, Address("127.0.0.1", 1), to_static)
    process = await asyncio.create_subprocess_exec(
        envoy_binary(),
        *("--mode", "validate", "--config-path", path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(20):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-2000:]
