"""gRPC's own xDS client, in a process of its own since it reads its bootstrap once; argument: the target."""

import sys

import grpc
import grpc.experimental

credentials = grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())
with grpc.secure_channel(sys.argv[1], credentials) as channel:
    print(channel.unary_unary("/test.v1.Test/WhoAmI")(b"", timeout=20).decode())
