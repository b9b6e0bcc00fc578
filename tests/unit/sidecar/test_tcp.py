import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.errors import AlreadyExists, InvalidInput
from mesh.model import Address
from mesh.sidecar.tcp import port_holder, reserve, resolve

Listener = Callable[..., socket.socket]
ANY = Address("127.0.0.1", 0)


def test_two_reservations_of_any_port_differ() -> None:
    with reserve(ANY, field="BIND") as first, reserve(ANY, field="BIND") as second:
        assert first.host == second.host == "127.0.0.1"
        assert 0 < first.port != second.port > 0


def test_an_envoy_can_listen_on_a_reserved_port_again_and_again(listener: Listener) -> None:
    with reserve(ANY, field="BIND") as address:
        for _ in range(2):
            one = listener(address.port, socket.SO_REUSEPORT, socket.SO_REUSEADDR)
            with socket.create_connection((address.host, address.port), timeout=2) as client:
                accepted, _ = one.accept()
                accepted.close()
                assert client.recv(1) == b""
            one.close()


def test_a_reservation_alone_takes_no_connection() -> None:
    with reserve(ANY, field="BIND") as address, pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port), timeout=2)


def test_two_reservations_of_the_same_port_exclude_one_another() -> None:
    with reserve(ANY, field="BIND") as address:
        with pytest.raises(AlreadyExists), reserve(address, field="BIND"):
            pass
    with reserve(address, field="BIND") as again:
        assert again == address


@pytest.mark.parametrize("options", [(), (socket.SO_REUSEADDR,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)])
def test_a_port_that_somebody_listens_on_names_the_holder(listener: Listener, options: tuple[int, ...]) -> None:
    port = listener(0, *options).getsockname()[1]
    with pytest.raises(AlreadyExists) as caught, reserve(Address("127.0.0.1", port), field="BIND"):
        pass
    holder = f"{Path('/proc/self/comm').read_text().strip()} (process {os.getpid()})"
    fix = "Stop it, or choose another address with BIND."
    assert str(caught.value) == f"BIND: 127.0.0.1:{port} is taken by {holder}. {fix}"
    assert caught.value.reason == "PORT_TAKEN"


def test_a_port_on_which_only_old_connections_linger_is_free(listener: Listener) -> None:
    server = listener(0, socket.SO_REUSEADDR)
    port = server.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as client:
        accepted, _ = server.accept()
        accepted.close()
        assert client.recv(1) == b""
    server.close()
    with pytest.raises(OSError, match="in use"):
        listener(port)
    with reserve(Address("127.0.0.1", port), field="BIND") as address:
        assert address.port == port
        with pytest.raises(AlreadyExists), reserve(address, field="BIND"):
            pass


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_of_this_machine_is_refused(host: str) -> None:
    with pytest.raises(InvalidInput, match=host) as caught, reserve(Address(host, 0), field="BIND"):
        pass
    assert caught.value.field == "BIND"


def test_a_name_becomes_the_address_that_envoy_needs() -> None:
    with reserve(Address("localhost", 0), field="BIND") as address:
        assert address.host == "127.0.0.1"
    assert resolve("::1") == (socket.AF_INET6, "::1")


def test_nobody_holds_a_free_port(listener: Listener) -> None:
    one = listener()
    port = one.getsockname()[1]
    assert f"(process {os.getpid()})" in port_holder(port)
    one.close()
    assert port_holder(port) == ""
