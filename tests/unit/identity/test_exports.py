import mesh.identity


def test_what_others_may_use_is_pinned() -> None:
    assert set(mesh.identity.__all__) == {
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
    }
