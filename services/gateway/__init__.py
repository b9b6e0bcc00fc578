"""The gateway: what the edge Envoy answers itself to clients outside of the mesh, and help for those that got lost.

client ──> edge Envoy ──by x-mesh-service or authority──> service
                └──all else──> this program: reflection of every contract, health by name, an error that helps
"""
