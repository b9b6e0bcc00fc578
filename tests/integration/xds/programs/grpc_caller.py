"""gRPC's own xDS client; calls each target that comes on standard input, and says who answered or how it failed.

A line is TARGET, with NAME=VALUE of headers behind it.
"""

import sys

import grpc
import grpc.experimental

credentials = grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())
channels = {}
for line in sys.stdin:
    target, *headers = line.split()
    metadata = [tuple(header.split("=", 1)) for header in headers]
    # Channels stay open, and so do their subscriptions.
    if target not in channels:
        channels[target] = grpc.secure_channel(target, credentials)
    try:
        answer = channels[target].unary_unary("/test.v1.Test/Name")(b"", timeout=10, metadata=metadata)
        print(answer.decode(), flush=True)
    except grpc.RpcError as err:
        print(err.code().name, flush=True)
