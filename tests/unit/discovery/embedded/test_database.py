import os
import signal
import sqlite3
import stat
import subprocess
import sys

import pytest

from mesh.discovery.embedded.database import VERSION, InstanceDatabase, open_writer
from mesh.errors import AlreadyExists, FailedPrecondition, Unavailable


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "registry.db"


def write(path, *records, removed=()):
    database = InstanceDatabase.open(path)
    database.write(records, removed)
    database.close()


def read(path):
    database = InstanceDatabase.open(path)
    try:
        return database.load()
    finally:
        database.close()


def test_what_was_written_comes_back_sorted_by_id(path, record):
    write(path, record("a-2"), record("a-1", capabilities=("npv",)))
    write(path, record("a-3"), removed=["a-2"])
    assert read(path) == [record("a-1", capabilities=("npv",)), record("a-3")]


def test_only_its_owner_can_read_the_file_and_its_log(path, record):
    database = InstanceDatabase.open(path)
    database.write([record()], ())
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    database.close()
    assert modes == {"registry.db": 0o600, "registry.db-wal": 0o600}


def test_loose_permissions_are_tightened(path, record):
    write(path, record())
    path.chmod(0o644)
    assert read(path) == [record()]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_control_plane_is_kept_out(path, monkeypatch):
    monkeypatch.setattr("mesh.discovery.embedded.database._LOCK_TIMEOUT", 0.05)
    database = InstanceDatabase.open(path)
    with pytest.raises(AlreadyExists) as caught:
        InstanceDatabase.open(path)
    database.close()
    assert str(path) in str(caught.value)
    assert read(path) == []


@pytest.mark.parametrize("damage", ["garbage", "cut", "page", "row"])
def test_a_damaged_file_is_named_with_the_way_out(path, record, damage):
    write(path, *(record(f"a-{number:03}", version="v" * 500) for number in range(100)))
    content = path.read_bytes()
    if damage == "garbage":
        path.write_bytes(b"this is no database at all" * 100)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "page":
        path.write_bytes(content[:8192] + b"\xff" * 4096 + content[12288:])
    else:
        with sqlite3.connect(path) as other:
            other.execute("UPDATE instances SET record = x'ffff' WHERE id = 'a-050'")
        other.close()
    with pytest.raises(FailedPrecondition) as caught:
        read(path)
    assert caught.value.reason == "STATE_CORRUPT"
    assert str(path) in caught.value.summary
    assert "away" in caught.value.fix


def test_a_file_of_a_newer_version_is_named_with_the_way_out(path):
    write(path)
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA user_version = {VERSION + 1}")
    other.close()
    with pytest.raises(FailedPrecondition, match="newer agentmesh") as caught:
        read(path)
    assert caught.value.reason == "STATE_TOO_NEW"
    assert str(path) in caught.value.summary


def test_the_database_of_another_program_is_left_alone(path):
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    with pytest.raises(FailedPrecondition, match="another program"):
        read(path)
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT name FROM sqlite_schema").fetchall() == [("mine",)]
    other.close()


def test_a_folder_in_place_of_the_file_is_an_error_that_names_it(path):
    path.mkdir(parents=True)
    with pytest.raises(FailedPrecondition, match=str(path)):
        read(path)


def test_an_empty_file_that_a_crash_has_left_is_filled(path, record):
    path.parent.mkdir()
    path.touch(mode=0o600)
    write(path, record())
    assert read(path) == [record()]


def test_a_write_that_fails_changes_nothing_and_says_so(path, record):
    database = InstanceDatabase.open(path)
    database.write([record()], ())
    database._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(Unavailable) as caught:
        database.write([record("a-2")], ["a-1"])
    assert caught.value.reason == "REGISTRY_NOT_WRITABLE"
    database._connection.execute("PRAGMA query_only = OFF")
    assert database.load() == [record()]
    database.close()


async def test_writes_take_effect_in_the_order_of_their_calls(path, record):
    async with open_writer(path) as (writer, found):
        assert found == []
        first = writer.write(saved=[record("a-1")])
        await first
        await writer.write(removed=["a-1"])
        await writer.write(saved=[record("a-2")])
    assert read(path) == [record("a-2")]


_KILLED = """
import os, signal, sys
from pathlib import Path
from mesh.discovery import HealthCheck
from mesh.discovery.embedded.database import InstanceDatabase
from mesh.discovery.embedded.record import Record
from mesh.model import Address, Instance
database = InstanceDatabase.open(Path(sys.argv[1]))
for number in range(200):
    at = Address("127.0.0.1", 1000)
    database.write([Record(Instance("a", f"a-{number:03}", at.host, at.port), HealthCheck(at, use_tls=True))], ())
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_written_survives_sigkill(path):
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(path)], env=os.environ, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert [found.instance.id for found in read(path)] == [f"a-{number:03}" for number in range(200)]
