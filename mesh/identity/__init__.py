"""Who is who: the certificate authority, join tokens, and how a workload gets and renews its certificate.

    join token ──enrolment port, server TLS──> IdentityServicer ──> CertificateAuthority
    certificate ──control port, mutual TLS───────────┘
    open_identity ──> Identity ──> svid.json, bundle.json (Envoy's SDS files), svid.pem, key.pem, bundle.pem

The private key is made where it is used and never travels. May import rpc and below.
"""

from mesh.identity.authority import CertificateAuthority, SignedCertificate
from mesh.identity.client import Identity, IdentitySettings, open_identity
from mesh.identity.client_tls import ClientTls
from mesh.identity.revocations import Revocations
from mesh.identity.roots import Roots, Stage, next_of
from mesh.identity.server_tls import ServerTls, open_server_credentials
from mesh.identity.servicer import IdentityServicer, peer_spiffe_id
from mesh.identity.svid import Svid, write_svid_files
from mesh.identity.tokens import JoinTokens, TokenClaims, read_claims

__all__ = [
    "CertificateAuthority",
    "ClientTls",
    "Identity",
    "IdentityServicer",
    "IdentitySettings",
    "JoinTokens",
    "Revocations",
    "Roots",
    "ServerTls",
    "SignedCertificate",
    "Stage",
    "Svid",
    "TokenClaims",
    "next_of",
    "open_identity",
    "open_server_credentials",
    "peer_spiffe_id",
    "read_claims",
    "write_svid_files",
]
