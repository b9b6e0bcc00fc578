import mesh.sidecar


def test_what_others_may_use_is_pinned() -> None:
    assert set(mesh.sidecar.__all__) == {
        "ControlPlane",
        "EdgeCertificate",
        "Envoy",
        "EnvoySettings",
        "Member",
        "MemberSettings",
        "OpenRegistry",
        "build_bootstrap",
        "find_envoy",
        "open_envoy",
        "open_member",
        "port_holder",
    }
