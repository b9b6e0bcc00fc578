"""Keys as files of one directory: mode 0600, replaced as a whole, durable before anybody hears of them."""

import asyncio
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.config.history.keys import Entry
from mesh.errors import FailedPrecondition, MeshError

_LOOK_SECONDS = 0.25
"""How often the files are looked at for changes by other hands."""


class FileKeys:
    """A KeyStore in a directory of this machine. What others change is seen within a quarter of a second."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()

    async def get(self, key: str) -> Entry | None:
        """See KeyStore.get."""
        return await asyncio.to_thread(self._read, key)

    async def put(self, key: str, value: bytes, *, expected: str | None = None) -> bool:
        """See KeyStore.put."""
        async with self._lock:
            done = await asyncio.to_thread(self._write, key, value, expected)
        self._wake()
        return done

    async def delete(self, key: str) -> None:
        """See KeyStore.delete."""
        async with self._lock:
            await asyncio.to_thread(self._remove, key)
        self._wake()

    async def watch(self) -> AsyncIterator[None]:
        """See KeyStore.watch."""
        seen: object = None
        while True:
            changed = self._changed
            found = await asyncio.to_thread(self._stamps)
            if found != seen:
                seen = found
                yield None
                continue
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await changed.wait()
            except TimeoutError:
                continue

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _path(self, key: str) -> Path:
        return self._directory / key

    def _read(self, key: str) -> Entry | None:
        path = self._path(key)
        try:
            value = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as err:
            raise _unusable(path, "read", err) from err
        return Entry(value, _version(value))

    def _write(self, key: str, value: bytes, expected: str | None) -> bool:
        with self._only_writer():
            return self._replace(key, value, expected)

    @contextmanager
    def _only_writer(self) -> Iterator[None]:
        """Hold the directory's lock, which the kernel gives back when a process dies."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as err:
            raise _unusable(self._directory, "written", err) from err
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _replace(self, key: str, value: bytes, expected: str | None) -> bool:
        if expected is not None:
            known = self._read(key)
            if (known.version if known is not None else "") != expected:
                return False
        path = self._path(key)
        fresh = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(value)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
            _sync(path.parent)
        except OSError as err:
            raise _unusable(path, "written", err) from err
        return True

    def _remove(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as err:
            raise _unusable(path, "removed", err) from err

    def _stamps(self) -> tuple[tuple[str, int, int], ...]:
        """What tells that a file at the top has changed; those below are only ever added."""
        found = []
        try:
            for item in os.scandir(self._directory):
                if item.is_file() and not item.name.startswith("."):
                    status = item.stat()
                    found.append((item.name, status.st_mtime_ns, status.st_ino))
        except OSError:
            return ()
        return tuple(sorted(found))


def _version(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()[:32]


def _sync(directory: Path) -> None:
    """A rename is durable only when the directory is."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(path: Path, what: str, err: OSError) -> MeshError:
    return FailedPrecondition(
        f"{path} cannot be {what}: {err.strerror or err}.",
        reason="STATE_NOT_WRITABLE",
        fix="Make room or make it usable, or set MESH_STATE_DIR to another directory.",
    )
