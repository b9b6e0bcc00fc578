"""gRPC's own xDS client; calls each target that comes on standard input, and says who answered or how it failed."""

import sys

import grpc
import grpc.experimental

credentials = grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())
channels = {}
for line in sys.stdin:
    target = line.strip()
    # Channels stay open, and so do their subscriptions.
    if target not in channels:
        channels[target] = grpc.secure_channel(target, credentials)
    try:
        print(channels[target].unary_unary("/test.v1.Test/Name")(b"", timeout=10).decode(), flush=True)
    except grpc.RpcError as err:
        print(err.code().name, flush=True)
