"""The control plane: identity, registry watch and xDS in one process.

Consul ──watch──> StateStore ──> AdsServer ──delta ADS──> sidecars          control port, mutual TLS
CertificateAuthority ──> IdentityServicer ──────────────> launchers         control and enrolment port
all of it ──> ControlServicer ──────────────────────────> meshctl           admin unix socket, 0600
"""
