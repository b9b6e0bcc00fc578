"""TLS contexts: certificates and roots come from SDS files that the launcher keeps fresh."""

from typing import Any

from mesh.model import SpiffeId
from mesh.xds.resources.resource import any_of

_TLS = "extensions.transport_sockets.tls.v3"

# Both ends are set: with the minimum alone an upstream context fails, because its maximum is 1.2 by default.
_PARAMETERS = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}


def _common(secrets_dir: str, san: dict[str, str]) -> dict[str, Any]:
    return {
        "alpn_protocols": ["h2"],
        "tls_params": _PARAMETERS,
        "tls_certificate_sds_secret_configs": [_secret("svid", secrets_dir)],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": san}]},
            "validation_context_sds_secret_config": _secret("bundle", secrets_dir),
        },
    }


def _secret(name: str, secrets_dir: str) -> dict[str, Any]:
    source = {"path": f"{secrets_dir}/{name}.json"}
    return {"name": name, "sds_config": {"path_config_source": source, "resource_api_version": "V3"}}


def build_downstream_tls(secrets_dir: str, trusted: SpiffeId) -> dict[str, Any]:
    """The inbound side: any service of the mesh and namespace of `trusted` may connect, nobody else."""
    prefix = str(trusted).removesuffix(trusted.service)
    context = {
        "require_client_certificate": True,
        "common_tls_context": _common(secrets_dir, {"prefix": prefix}),
        # A resumed session would skip the check of a certificate that has been replaced meanwhile.
        "disable_stateless_session_resumption": True,
    }
    return {"name": "tls", "typed_config": any_of(f"{_TLS}.DownstreamTlsContext", context)}


def build_upstream_tls(secrets_dir: str, expected: SpiffeId) -> dict[str, Any]:
    """The outbound side: the other end must be exactly `expected`."""
    context = {
        "sni": f"{expected.service}.mesh",
        "common_tls_context": _common(secrets_dir, {"exact": str(expected)}),
    }
    return {"name": "tls", "typed_config": any_of(f"{_TLS}.UpstreamTlsContext", context)}


def build_edge_tls(secrets_dir: str) -> dict[str, Any]:
    """The edge: the certificate of edge.json; services of the mesh may show theirs, others show none."""
    context = {
        "require_client_certificate": False,
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificate_sds_secret_configs": [_secret("edge", secrets_dir)],
            "validation_context_sds_secret_config": _secret("bundle", secrets_dir),
        },
    }
    return {"name": "tls", "typed_config": any_of(f"{_TLS}.DownstreamTlsContext", context)}
