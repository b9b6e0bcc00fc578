"""Secrets that the mesh keeps itself, encrypted: what kv:NAME refers to.

    SecretStore ──SecretBox (key file, 0600)──> SecretShelf: a file of the state directory, or Consul's KV

Whoever reads the shelf without the key learns the names of secrets and nothing else.
"""

import asyncio
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from mesh.config.document.values import REFERENCE
from mesh.errors import FailedPrecondition, InvalidInput
from mesh.runtime.private_files import hold_private_dir, read_secret, write_file

LONGEST_SECRET = 64 << 10
"""Bytes of a secret's value."""


class SecretShelf(Protocol):
    """Where encrypted secrets lie, by name. Raises MeshError when it cannot be reached."""

    async def get(self, name: str) -> bytes | None:
        """What lies under a name, None when nothing does."""

    async def put(self, name: str, value: bytes) -> None:
        """Put something under a name, in the place of what was there."""

    async def delete(self, name: str) -> None:
        """Remove what lies under a name, if anything does."""

    async def names(self) -> Sequence[str]:
        """All names, sorted."""


class SecretBox:
    """Encrypts with the first key of a key file and decrypts with any of them, which lets keys be changed.

    The form is Fernet (https://github.com/fernet/spec): AES-128-CBC and HMAC-SHA256. The name is encrypted with the
    value, so that one secret cannot be put in the place of another.
    """

    def __init__(self, keys: MultiFernet, path: Path) -> None:
        self._keys = keys
        self._path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a key file, one key on a line; it is made at the first use. Raises FailedPrecondition for a bad one."""
        content = read_secret(path)
        if content is None:
            _make_key_file(path)
            content = read_secret(path) or b""
        try:
            return cls(MultiFernet([Fernet(line) for line in content.split()]), path)
        except ValueError as err:
            raise FailedPrecondition(
                f"{path} holds no keys.",
                reason="SECRETS_KEY_CORRUPT",
                field="MESH_SECRETS_KEY_FILE",
                fix="Restore it; without it the secrets that were set must be set again.",
            ) from err

    def seal(self, name: str, value: str) -> bytes:
        """Encrypt the value of a name."""
        return self._keys.encrypt(json.dumps([name, value]).encode())

    def unseal(self, name: str, sealed: bytes) -> str:
        """The value of a name; raises FailedPrecondition when it was sealed with another key or for another name."""
        try:
            known, value = json.loads(self._keys.decrypt(sealed))
        except (InvalidToken, ValueError, TypeError):
            known = value = None
        if known != name or not isinstance(value, str):
            raise FailedPrecondition(
                f"The secret {name} cannot be read with the key in {self._path}.",
                reason="SECRET_NOT_READABLE",
                field=f"kv:{name}",
                fix=f"Set it again with `meshctl secrets set {name}`, or bring the key back with which it was set.",
            )
        return value


class SecretStore:
    """The secrets of a mesh by name."""

    def __init__(self, shelf: SecretShelf, box: SecretBox) -> None:
        self._shelf = shelf
        self._box = box

    async def get(self, name: str) -> str | None:
        """The value of a secret, None when there is none; raises FailedPrecondition when the key does not fit."""
        sealed = await self._shelf.get(check_secret_name(name))
        return None if sealed is None else self._box.unseal(name, sealed)

    async def set(self, name: str, value: str) -> None:
        """Set a secret; raises InvalidInput for a name or value that cannot be one."""
        await self._shelf.put(check_secret_name(name), self._box.seal(name, check_secret_value(value)))

    async def remove(self, name: str) -> bool:
        """Remove a secret; tells whether there was one."""
        if await self._shelf.get(check_secret_name(name)) is None:
            return False
        await self._shelf.delete(name)
        return True

    async def list(self) -> Sequence[str]:
        """The names of all secrets, sorted."""
        return await self._shelf.names()


class FileShelf:
    """Encrypted secrets in one file of a private folder; all processes of the account may use it at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "secrets.json"

    async def get(self, name: str) -> bytes | None:
        """What lies under a name, None when nothing does."""
        return (await asyncio.to_thread(self._read)).get(name)

    async def put(self, name: str, value: bytes) -> None:
        """Put something under a name; it is on disk when this returns."""
        await asyncio.to_thread(self._change, {name: value}, "")

    async def delete(self, name: str) -> None:
        """Remove what lies under a name, if anything does."""
        await asyncio.to_thread(self._change, {}, name)

    async def names(self) -> Sequence[str]:
        """All names, sorted."""
        return sorted(await asyncio.to_thread(self._read))

    def _change(self, added: Mapping[str, bytes], removed: str) -> None:
        with hold_private_dir(self._directory):
            sealed = {name: value for name, value in self._read().items() if name != removed} | dict(added)
            content = {name: value.decode("ascii") for name, value in sorted(sealed.items())}
            write_file(self._path, (json.dumps(content, indent=1) + "\n").encode(), mode=0o600)

    def _read(self) -> dict[str, bytes]:
        content = read_secret(self._path)
        try:
            values = json.loads(content) if content is not None else {}
            return {str(name): value.encode("ascii") for name, value in values.items()}
        except (ValueError, AttributeError, RecursionError) as err:
            raise FailedPrecondition(
                f"{self._path} holds no secrets of ours.",
                reason="STATE_CORRUPT",
                field=str(self._path),
                fix="Restore it, or move it away and set the secrets again.",
            ) from err


def check_secret_name(name: str) -> str:
    """The name itself; raises InvalidInput for what cannot be one."""
    if REFERENCE.pattern.fullmatch(f"kv:{name}") is None or len(name) > 200:
        raise InvalidInput(
            f"{name!r} is not a name of a secret.",
            field="name",
            fix="Use letters, digits, dots, dashes and underscores, with / between parts, at most 200 characters.",
        )
    return name


def check_secret_value(value: str) -> str:
    """The value itself; raises InvalidInput, which does not tell it, for what cannot be one."""
    if not value or len(value.encode(errors="replace")) > LONGEST_SECRET or any(char in value for char in "\0\r\n"):
        raise InvalidInput(
            "This cannot be a secret's value.",
            field="value",
            fix=f"It is one line of text without NUL, not empty, of at most {LONGEST_SECRET >> 10} KB.",
        )
    return value


def _make_key_file(path: Path) -> None:
    """Make a key file unless another process is faster: a key that is there is never replaced."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(fresh, Fernet.generate_key() + b"\n", mode=0o600)
        with suppress(FileExistsError):
            os.link(fresh, path)
    except OSError as err:
        raise FailedPrecondition(
            f"{path} cannot be written: {err.strerror or err}.",
            reason="STATE_NOT_WRITABLE",
            field="MESH_SECRETS_KEY_FILE",
            fix="Make its folder writable, or name another file.",
        ) from err
    finally:
        with suppress(OSError):
            fresh.unlink()
