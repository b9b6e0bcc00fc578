"""Pure builders: the same facts in, the same bytes out.

    ProxySpec, MeshState ──> listeners, routes, clusters, endpoints      for Envoy
                        └──> grpc_client                                 for gRPC's own xDS client

Each builder writes one literal in Envoy's JSON form, which is what golden files and `config_dump` show, too.
"""

from mesh.xds.resources.resource import Resource, build_resource

__all__ = ["Resource", "build_resource"]
