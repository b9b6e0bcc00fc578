"""Where a TCP listener is."""

from dataclasses import dataclass
from typing import Self

from mesh.errors import InvalidInput


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host (name or IP, IPv6 without brackets) and a TCP port; port 0 asks for any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, field: str = "address") -> Self:
        """Read "HOST:PORT" or "[IPV6]:PORT"; raises InvalidInput that names `field`."""
        host, colon, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not colon or not bare or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise InvalidInput(
                f"{text!r} is not an address.", field=field, fix="Write HOST:PORT, for example 127.0.0.1:8080."
            )
        return cls(bare, int(port))
