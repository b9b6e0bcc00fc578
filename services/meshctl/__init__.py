"""The command line of the mesh.

main ── commands: up, down, status, run, tools, call, agents, proxies, certs, token, doctor, logs, demo
 ├── connection   ways in: the control plane's admin socket, the edge
 ├── supervisor   what `up` starts and stops
 └── output       tables and JSON
"""
