"""The registered instances on disk: SQLite in WAL mode, one row an instance.

What was written when a call returned survives SIGKILL; after a loss of power the newest writes may be missing, the file
is whole (https://www.sqlite.org/pragma.html#pragma_synchronous, NORMAL in WAL mode). One process at a time: the file is
locked exclusively, and the kernel lets go of the lock when the process dies.
"""

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Self

from google.protobuf.message import DecodeError

from agentmesh.registry.v1 import registry_service_pb2 as pb
from mesh.discovery.embedded.record import Record, check_record, record_from_proto, record_to_proto
from mesh.errors import AlreadyExists, FailedPrecondition, InvalidInput, Unavailable
from mesh.telemetry import get_logger

VERSION = 1
# "AgMR": tells our files from other programs' databases.
_APPLICATION_ID = 0x41674D52
# The control plane before this one may be about to end.
_LOCK_TIMEOUT = 5.0

_SCHEMA = "CREATE TABLE instances (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID"

_log = get_logger(__name__)


class InstanceDatabase:
    """The open file. Its methods block, and belong to one thread at a time. Made by `open`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file, or make it (0600) when it is not there.

        Raises FailedPrecondition that names the file when it is damaged, of a newer version, not ours or not usable,
        and AlreadyExists when another control plane uses it.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_private(path)
            connection = sqlite3.connect(path, timeout=_LOCK_TIMEOUT, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as err:
            raise _not_usable(path, err) from err
        try:
            _prepare(path, connection)
        except sqlite3.Error as err:
            connection.close()
            raise _explain(path, err) from err
        except FailedPrecondition:
            connection.close()
            raise
        return cls(path, connection)

    def load(self) -> list[Record]:
        """All records, sorted by id. Raises FailedPrecondition when one of them is damaged."""
        try:
            with closing(self._connection.execute("SELECT id, record FROM instances ORDER BY id")) as cursor:
                return [_parse(self._path, str(key), content) for key, content in cursor]
        except sqlite3.Error as err:
            raise _explain(self._path, err) from err

    def write(self, saved: Iterable[Record], removed: Iterable[str]) -> None:
        """Add or replace records and remove others, all or none. Raises Unavailable when that is not possible."""
        rows = [(record.instance.id, record_to_proto(record).SerializeToString()) for record in saved]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany("INSERT OR REPLACE INTO instances VALUES (?, ?)", rows)
                self._connection.executemany("DELETE FROM instances WHERE id = ?", [(key,) for key in removed])
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        except sqlite3.Error as err:
            raise Unavailable(
                f"{self._path} cannot be written: {err}.",
                reason="REGISTRY_NOT_WRITABLE",
                fix="Make room on its disk; what is registered stays in memory until then.",
            ) from err

    def close(self) -> None:
        """Close the file; SQLite then folds its log into it."""
        self._connection.close()


class DatabaseWriter:
    """Writes in the order of the calls, in a thread of its own. Made by `open_writer`."""

    def __init__(self, database: InstanceDatabase, thread: ThreadPoolExecutor) -> None:
        self._database = database
        self._thread = thread

    async def write(self, *, saved: Iterable[Record] = (), removed: Iterable[str] = ()) -> None:
        """InstanceDatabase.write; on disk when this returns. A caller that gives up does not stop the write."""
        future = self._thread.submit(self._database.write, tuple(saved), tuple(removed))
        await asyncio.shield(asyncio.wrap_future(future))


@asynccontextmanager
async def open_writer(path: Path) -> AsyncIterator[tuple[DatabaseWriter, list[Record]]]:
    """Open the file and read it; raises what InstanceDatabase.open and load raise. At the end all is written."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="registry") as thread:
        loop = asyncio.get_running_loop()
        database = await loop.run_in_executor(thread, InstanceDatabase.open, path)
        try:
            yield DatabaseWriter(database, thread), await loop.run_in_executor(thread, database.load)
        finally:
            await loop.run_in_executor(thread, database.close)


def _make_private(path: Path) -> None:
    """Let only the owner read the file, from its first byte on; SQLite gives its log the same mode."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "it is not a file")
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.fchmod(descriptor, 0o600)
            _log.warning("registry_file_tightened", path=str(path))
    finally:
        os.close(descriptor)


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    """Lock the file, see that it is whole and ours, and make the table in a new one."""
    # Before the first access: then the log needs no shared memory beside it, and no second process gets in.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise FailedPrecondition(
            f"{path} cannot have a write-ahead log there.",
            reason="STATE_NOT_WRITABLE",
            fix="Set MESH_STATE_DIR to a directory on a local disk.",
        )
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN EXCLUSIVE")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables and not application:
        connection.execute(_SCHEMA)
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    elif application != _APPLICATION_ID:
        raise FailedPrecondition(
            f"{path} is the database of another program.", reason="STATE_CORRUPT", fix="Move it away."
        )
    elif version > VERSION:
        raise FailedPrecondition(
            f"{path} was written by a newer agentmesh: its version is {version}, this one reads {VERSION}.",
            reason="STATE_TOO_NEW",
            fix="Use that agentmesh, or move the file away: running members register anew within seconds.",
        )
    else:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _corrupt(path, str(verdict))
    connection.execute("COMMIT")


def _parse(path: Path, key: str, content: bytes) -> Record:
    try:
        record = record_from_proto(pb.RegisterRequest.FromString(content))
        check_record(record)
    except (DecodeError, TypeError, InvalidInput) as err:
        raise _corrupt(path, f"the entry of {key!r} cannot be read ({err})") from err
    return record


def _explain(path: Path, err: sqlite3.Error) -> FailedPrecondition | AlreadyExists:
    code = getattr(err, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return AlreadyExists(
            f"Another control plane uses {path}.",
            reason="STATE_LOCKED",
            fix="Stop the mesh that runs with it (`meshctl down`), or set MESH_STATE_DIR to another directory.",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        return _corrupt(path, str(err))
    return _not_usable(path, err)


def _corrupt(path: Path, detail: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"The registry's file {path} is damaged: {detail.rstrip('.')}.",
        reason="STATE_CORRUPT",
        fix=f"Restore it, or move it and {path.name}-wal away: running members register anew within seconds.",
    )


def _not_usable(path: Path, err: Exception) -> FailedPrecondition:
    detail = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
    return FailedPrecondition(
        f"The registry's file {path} cannot be used: {detail.rstrip('.')}.",
        reason="STATE_NOT_WRITABLE",
        fix="Make room or make it writable, or set MESH_STATE_DIR to another directory.",
    )
