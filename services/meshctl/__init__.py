"""The command line of the mesh.

main ── commands: up, down, status, run, tools, call, agents, proxies, certs, token, doctor, logs, demo
 ├── connection              ways in: the control plane's admin socket, the edge
 ├── infrastructure, members what `up` and `run` start and stop
 ├── foreground, state_lock  how they end, and who runs the mesh of a state directory
 ├── failures                errors and exit statuses
 └── output                  tables and JSON
"""
