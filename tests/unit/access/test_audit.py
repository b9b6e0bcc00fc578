import asyncio
import errno
import json
import os
import shutil
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh.access import audit as audit_module
from mesh.access import audit_writer
from mesh.access.audit import AuditLog, open_audit
from mesh.access.audit_chain import Report, link, verify
from mesh.access.audit_files import AuditReader, audit_files, newest_entries, read_head
from mesh.access.audit_writer import AuditWriter
from mesh.config.document.access import Audit
from mesh.errors import FailedPrecondition

POLICY = Audit()
SMALL = Audit.model_construct(reads=True, max_file_mb=0, keep=3)
"""Each batch gets a file of its own."""


def entry(number: int = 0, **more: Any) -> dict[str, Any]:
    return {"who": "user:ada", "decision": "allowed", "method": f"pkg.Service/M{number}", **more}


def entries(directory: Path) -> list[dict[str, Any]]:
    """What stands in the audit, oldest first."""
    return list(newest_entries(directory))[::-1]


def decisions(directory: Path) -> list[str]:
    return [found["decision"] for found in entries(directory)]


def write(directory: Path, *batches: int, policy: Audit = POLICY) -> None:
    """Write batches of entries, and leave all on disk."""
    writer = AuditWriter(directory, lambda: policy)
    note = writer.start()
    if note is not None:
        writer.append([{"time": 1.0, **note}])
    number = 0
    for size in batches:
        writer.append([{"time": 1.0, **entry(number + each)} for each in range(size)])
        number += size
    writer.sync()
    writer.close()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def open_log(directory: Path, **more: Any) -> AsyncIterator[AuditLog]:
    async with open_audit(directory, lambda: POLICY, clock=lambda: 1.5, **more) as log:
        yield log


def broken(report: Report) -> tuple[str, str]:
    assert not report.is_good
    return report.where, report.broken


async def test_entries_are_written_in_order_and_hang_together(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    async with open_log(folder) as log:
        for number in range(600):
            log.note(entry(number, tool="", skill=""))
        await until(lambda: len(entries(folder)) == 600)
    found = entries(folder)
    assert [each["method"] for each in found] == [f"pkg.Service/M{number}" for number in range(600)]
    assert found[0]["time"] == 1.5
    assert not {"tool", "skill"} & set(found[0])
    report = verify(folder)
    assert (report.is_good, report.lines, report.first, report.last) == (True, 600, 1, 600)
    assert report.hash == found[-1]["hash"]


async def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    async with open_log(folder) as log:
        log.note(entry())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


async def test_a_new_writer_goes_on_with_the_chain(tmp_path: Path) -> None:
    for _ in range(3):
        async with open_log(tmp_path) as log:
            log.note(entry())
    assert (verify(tmp_path).is_good, verify(tmp_path).lines) == (True, 3)
    assert len(audit_files(tmp_path)) == 1


async def test_only_one_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "_LOCK_SECONDS", 0.0)
    async with open_log(tmp_path):
        with pytest.raises(FailedPrecondition) as found:
            async with open_log(tmp_path):
                raise AssertionError
    assert found.value.reason == "STATE_LOCKED"


async def test_texts_are_bounded_and_cannot_break_lines(tmp_path: Path) -> None:
    nasty = 'a\n{"decision":"allowed"}\r\x00\x1b[2J\ud800","hash":"' + "0" * 64 + '"}\n'
    async with open_log(tmp_path) as log:
        log.note(entry(tool=nasty, skill="😀" * 5000))
        log.note(entry())
    first, second = entries(tmp_path)
    assert first["tool"] == nasty
    assert (len(first["skill"]), first["skill"][-1]) == (256, "…")
    assert second["sequence"] == 2
    assert verify(tmp_path).is_good
    text = audit_files(tmp_path)[0].read_bytes()
    assert text.isascii()
    assert not any(byte < 0x20 for byte in text.replace(b"\n", b""))


def test_a_hash_can_be_checked_with_any_json_library() -> None:
    import hashlib

    line, made = link(7, "ab", {"who": "user:ä", "time": 1.25, "decision": "allowed"})
    facts = json.loads(line)
    assert facts.pop("hash") == made
    canonical = json.dumps(facts, separators=(",", ":"), sort_keys=True)
    assert hashlib.sha256(canonical.encode()).hexdigest() == made


class TestTampering:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        write(tmp_path, 10)
        return tmp_path

    @pytest.fixture
    def lines(self, folder: Path) -> list[bytes]:
        return audit_files(folder)[0].read_bytes().splitlines(keepends=True)

    def put(self, folder: Path, lines: list[bytes]) -> tuple[str, str]:
        audit_files(folder)[0].write_bytes(b"".join(lines))
        return broken(verify(folder))

    def test_a_changed_line_is_found(self, folder: Path, lines: list[bytes]) -> None:
        lines[4] = lines[4].replace(b"ada", b"eve")
        where, what = self.put(folder, lines)
        assert where == "audit-00000001.jsonl:5"
        assert "changed" in what

    def test_a_changed_line_with_a_new_hash_is_found(self, folder: Path, lines: list[bytes]) -> None:
        facts = json.loads(lines[4])
        lines[4], _ = link(5, facts.pop("previous"), {**facts, "who": "user:eve"})
        where, what = self.put(folder, lines)
        assert where == "audit-00000001.jsonl:6"
        assert "does not follow line 5" in what

    def test_a_line_that_was_taken_out_is_found(self, folder: Path, lines: list[bytes]) -> None:
        del lines[4]
        where, what = self.put(folder, lines)
        assert where == "audit-00000001.jsonl:5"
        assert "missing" in what

    def test_a_first_line_that_was_taken_out_is_found(self, folder: Path, lines: list[bytes]) -> None:
        assert self.put(folder, lines[1:])[0] == "audit-00000001.jsonl:1"

    def test_a_line_that_was_put_in_is_found(self, folder: Path, lines: list[bytes]) -> None:
        lines.insert(4, lines[4])
        assert self.put(folder, lines)[0] == "audit-00000001.jsonl:6"

    def test_lines_that_were_exchanged_are_found(self, folder: Path, lines: list[bytes]) -> None:
        lines[4], lines[5] = lines[5], lines[4]
        assert self.put(folder, lines)[0] == "audit-00000001.jsonl:5"

    def test_lines_that_were_cut_off_are_found(self, folder: Path, lines: list[bytes]) -> None:
        where, what = self.put(folder, lines[:-3])
        assert (where, what) == ("after line 7", "3 lines are missing at the end")

    def test_a_line_that_was_cut_in_the_middle_is_found(self, folder: Path, lines: list[bytes]) -> None:
        assert "1 lines are missing" in self.put(folder, [*lines[:-1], lines[-1][:20]])[1]

    def test_another_end_is_found(self, folder: Path, lines: list[bytes]) -> None:
        facts = json.loads(lines[-1])
        lines[-1], _ = link(10, facts["previous"], {"time": 1.0, "decision": "allowed", "who": "user:eve"})
        assert "made anew" in self.put(folder, lines)[1]

    def test_files_that_were_removed_are_found(self, folder: Path) -> None:
        audit_files(folder)[0].unlink()
        assert broken(verify(folder))[1] == "10 lines are missing at the end"

    def test_a_head_that_was_removed_or_damaged_is_found(self, folder: Path) -> None:
        (folder / "head.json").write_text("{")
        assert broken(verify(folder))[0] == "head.json"
        (folder / "head.json").unlink()
        assert broken(verify(folder))[0] == "head.json"

    def test_a_chain_that_was_made_anew_contradicts_what_was_kept_elsewhere(self, folder: Path) -> None:
        kept = verify(folder)
        assert verify(folder, known={kept.last: kept.hash, 3: entries(folder)[2]["hash"]}).is_good
        shutil.rmtree(folder)
        write(folder, 4, 8)
        lines = audit_files(folder)[0].read_bytes().replace(b"ada", b"eve").splitlines()
        anew, last = [], "0" * 64
        for number, line in enumerate(lines, 1):
            facts = json.loads(line)
            text, last = link(number, last, {name: facts[name] for name in facts if name not in ("hash", "previous")})
            anew.append(text)
        audit_files(folder)[0].write_bytes(b"".join(anew))
        (folder / "head.json").write_text(json.dumps({"sequence": 12, "hash": last, "file": 1}))
        assert verify(folder).is_good
        assert "made anew" in broken(verify(folder, known={kept.last: kept.hash}))[1]

    def test_a_writer_does_not_cover_up_what_was_cut_off(self, folder: Path, lines: list[bytes]) -> None:
        audit_files(folder)[0].write_bytes(b"".join(lines[:-3]))
        write(folder, 5)
        where, what = broken(verify(folder))
        assert where == "audit-00000002.jsonl:1"
        assert "does not follow line 7" in what
        lost = next(each for each in entries(folder) if each["decision"] == "lost")
        assert lost["count"] == 3

    def test_a_writer_does_not_cover_up_another_end(self, folder: Path, lines: list[bytes]) -> None:
        facts = json.loads(lines[-1])
        lines[-1], _ = link(10, facts["previous"], {"time": 1.0, "decision": "allowed", "who": "user:eve"})
        audit_files(folder)[0].write_bytes(b"".join(lines))
        write(folder, 5)
        assert not verify(folder).is_good

    def test_a_writer_does_not_cover_up_that_all_is_gone(self, folder: Path) -> None:
        audit_files(folder)[0].unlink()
        write(folder, 5)
        assert broken(verify(folder))[0] == "audit-00000002.jsonl:1"


class TestRotation:
    def test_old_files_are_dropped_and_the_rest_can_be_verified(self, tmp_path: Path) -> None:
        write(tmp_path, *[2] * 10, policy=SMALL)
        assert [path.name for path in audit_files(tmp_path)] == [f"audit-{number:08}.jsonl" for number in (8, 9, 10)]
        report = verify(tmp_path)
        assert (report.is_good, report.first, report.last) == (True, 15, 20)

    def test_a_kept_file_that_was_removed_is_found(self, tmp_path: Path) -> None:
        write(tmp_path, *[2] * 10, policy=SMALL)
        audit_files(tmp_path)[0].unlink()
        assert broken(verify(tmp_path))[0] == "audit-00000009.jsonl:1"

    def test_an_anchor_that_was_removed_or_damaged_is_found(self, tmp_path: Path) -> None:
        write(tmp_path, *[2] * 10, policy=SMALL)
        (tmp_path / "anchor.json").write_text("[]")
        assert broken(verify(tmp_path))[0] == "anchor.json"
        write(tmp_path, 1)
        (tmp_path / "anchor.json").unlink()
        assert broken(verify(tmp_path))[0] == "audit-00000008.jsonl:1"

    def test_a_writer_that_was_killed_while_it_dropped_a_file_leaves_a_good_chain(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(path: Path) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(audit_writer, "remove_file", die)
            with pytest.raises(KeyboardInterrupt):
                write(tmp_path, *[2] * 4, policy=SMALL)
        assert (tmp_path / "audit-00000001.jsonl").exists()
        assert verify(tmp_path).is_good
        write(tmp_path, 1)
        assert not (tmp_path / "audit-00000001.jsonl").exists()
        assert verify(tmp_path).is_good

    def test_a_damaged_file_does_not_keep_others_from_being_dropped(self, tmp_path: Path) -> None:
        write(tmp_path, *[2] * 3, policy=SMALL)
        audit_files(tmp_path)[0].write_bytes(b"\x00" * 100)
        write(tmp_path, *[2] * 5, policy=SMALL)
        assert len(audit_files(tmp_path)) == 3
        assert verify(tmp_path).is_good

    def test_what_is_dropped_while_it_is_verified_is_not_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mesh.access import audit_chain

        write(tmp_path, *[2] * 10, policy=SMALL)
        listed = audit_chain.audit_files

        def list_and_drop(directory: Path) -> list[Path]:
            files = listed(directory)
            if files[-1].name == "audit-00000010.jsonl":
                write(directory, 2, 2, policy=SMALL)
            return files

        monkeypatch.setattr(audit_chain, "audit_files", list_and_drop)
        assert verify(tmp_path).is_good


class TestRecovery:
    @pytest.mark.parametrize("torn", [b"{", b'{"decision":"allo', b"\x00" * 70_000, b"\x00\n" * 5])
    def test_a_torn_end_is_cut_off_and_noted(self, tmp_path: Path, torn: bytes) -> None:
        write(tmp_path, 3)
        with audit_files(tmp_path)[0].open("ab") as file:
            file.write(torn)
        write(tmp_path, 1)
        assert decisions(tmp_path) == ["allowed"] * 3 + ["torn", "allowed"]
        assert entries(tmp_path)[3]["bytes"] == len(torn)
        assert verify(tmp_path).is_good

    def test_a_line_that_is_being_written_is_no_fault(self, tmp_path: Path) -> None:
        write(tmp_path, 3)
        with audit_files(tmp_path)[0].open("ab") as file:
            file.write(b'{"decision":"allo')
        report = verify(tmp_path)
        assert (report.is_good, report.is_unfinished, report.lines) == (True, True, 3)

    def test_a_file_with_nothing_but_a_torn_line_is_begun_again(self, tmp_path: Path) -> None:
        write(tmp_path, 2, 2, policy=SMALL)
        (tmp_path / "audit-00000003.jsonl").write_bytes(b'{"deci')
        write(tmp_path, 1)
        assert (verify(tmp_path).is_good, verify(tmp_path).lines) == (True, 6)

    def test_the_chain_goes_on_after_a_damaged_head(self, tmp_path: Path) -> None:
        write(tmp_path, 3)
        (tmp_path / "head.json").write_text("")
        write(tmp_path, 1)
        assert decisions(tmp_path)[3] == "torn"
        assert verify(tmp_path).is_good

    async def test_a_killed_process_loses_nothing_that_verify_would_miss(self, tmp_path: Path) -> None:
        program = f"""
import asyncio, pathlib
from mesh.access.audit import open_audit
from mesh.config.document.access import Audit
async def main():
    async with open_audit(pathlib.Path({str(tmp_path)!r}), Audit) as log:
        number = 0
        while True:
            for _ in range(50):
                number += 1
                log.note({{"decision": "allowed", "method": f"M{{number}}"}})
            await asyncio.sleep(0.001)
asyncio.run(main())
"""
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
        try:
            file = tmp_path / "audit-00000001.jsonl"
            await until(lambda: file.exists() and file.stat().st_size > 100_000)
            assert verify(tmp_path).is_good
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        async with open_log(tmp_path) as log:
            log.note(entry())
        assert verify(tmp_path).is_good
        numbers = [each["method"] for each in entries(tmp_path) if each.get("method", "").startswith("M")]
        assert numbers == [f"M{number}" for number in range(1, len(numbers) + 1)]


class Disk:
    """A disk that is full from time to time: a write then writes a part of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = False
        self.refused = 0
        self._write = os.write
        monkeypatch.setattr(audit_writer.os, "write", self.write)

    def write(self, descriptor: int, data: Any) -> int:
        if self.is_full and len(data) > 30:
            return self._write(descriptor, bytes(data[:30]))
        if self.is_full:
            self.refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._write(descriptor, data)


class TestFailures:
    @pytest.fixture
    def disk(self, monkeypatch: pytest.MonkeyPatch) -> Disk:
        monkeypatch.setattr(audit_module, "_RETRY_SECONDS", 0.01)
        return Disk(monkeypatch)

    async def test_entries_wait_for_a_full_disk(self, tmp_path: Path, disk: Disk) -> None:
        async with open_log(tmp_path) as log:
            log.note(entry(0))
            await until(lambda: len(entries(tmp_path)) == 1)
            disk.is_full = True
            for number in range(1, 10):
                log.note(entry(number))
            await until(lambda: disk.refused > 1)
            assert verify(tmp_path).is_good
            disk.is_full = False
            await until(lambda: len(entries(tmp_path)) == 10)
        assert [each["method"][-1] for each in entries(tmp_path)] == list("0123456789")
        assert verify(tmp_path).is_good

    async def test_what_found_no_room_is_counted_in_its_place(self, tmp_path: Path, disk: Disk) -> None:
        async with open_log(tmp_path, most_waiting=5, sync_seconds=0.01) as log:
            disk.is_full = True
            for number in range(12):
                log.note(entry(number))
            disk.is_full = False
            await until(lambda: "missing" in decisions(tmp_path))
            log.note(entry(99))
        assert decisions(tmp_path) == ["allowed"] * 5 + ["missing", "allowed"]
        assert entries(tmp_path)[5]["count"] == 7
        report = verify(tmp_path)
        assert (report.is_good, report.missing) == (True, 7)

    async def test_a_disk_that_stays_full_does_not_keep_the_gateway_from_ending(
        self, tmp_path: Path, disk: Disk
    ) -> None:
        async with open_log(tmp_path) as log:
            disk.is_full = True
            log.note(entry())
        assert verify(tmp_path).lines == 0
        disk.is_full = False
        async with open_log(tmp_path) as log:
            log.note(entry())
        assert (verify(tmp_path).is_good, verify(tmp_path).lines) == (True, 1)

    async def test_a_file_that_is_taken_away_leaves_a_hole_and_not_silence(self, tmp_path: Path) -> None:
        async with open_log(tmp_path, sync_seconds=0.01) as log:
            log.note(entry(0))
            await until(lambda: (head := read_head(tmp_path)) is not None and head.sequence == 1)
            audit_files(tmp_path)[0].unlink()
            log.note(entry(1))
            await until(lambda: (head := read_head(tmp_path)) is not None and head.sequence == 2)
            log.note(entry(2))
        assert [each["method"] for each in entries(tmp_path)] == ["pkg.Service/M2"]
        assert broken(verify(tmp_path))[0] == "audit-00000002.jsonl:1"

    async def test_a_folder_that_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "audit").write_text("")
        with pytest.raises(FailedPrecondition):
            async with open_log(tmp_path / "audit"):
                raise AssertionError

    async def test_a_link_in_the_place_of_a_file_is_not_followed(self, tmp_path: Path) -> None:
        folder = tmp_path / "audit"
        folder.mkdir()
        (tmp_path / "other").write_text("")
        (folder / "audit-00000001.jsonl").symlink_to(tmp_path / "other")
        with pytest.raises(FailedPrecondition):
            async with open_log(folder):
                raise AssertionError
        assert (tmp_path / "other").read_text() == ""

    async def test_a_cancelled_gateway_writes_what_it_has(self, tmp_path: Path) -> None:
        started = asyncio.Event()

        async def serve() -> None:
            async with open_log(tmp_path) as log:
                for number in range(2000):
                    log.note(entry(number))
                await until(lambda: audit_files(tmp_path)[0].stat().st_size > 0)
                started.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(serve())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (verify(tmp_path).is_good, verify(tmp_path).lines) == (True, 2000)


class TestReading:
    def test_the_newest_come_first_over_all_files(self, tmp_path: Path) -> None:
        write(tmp_path, 300, 300, 300, policy=SMALL)
        numbers = [each["sequence"] for each in newest_entries(tmp_path)]
        assert numbers == list(range(900, 0, -1))

    def test_a_reader_goes_on_over_files_and_halves_of_lines(self, tmp_path: Path) -> None:
        write(tmp_path, 2)
        reader = AuditReader(tmp_path)
        assert list(reader.read()) == []
        line, _ = link(3, "0" * 64, {"time": 1.0, "decision": "allowed"})
        with audit_files(tmp_path)[0].open("ab", buffering=0) as file:
            file.write(line[:20])
            assert list(reader.read()) == []
            file.write(line[20:])
        (tmp_path / "audit-00000002.jsonl").write_bytes(link(4, "0" * 64, {"time": 1.0, "decision": "refused"})[0])
        (tmp_path / "audit-00000003.jsonl").write_bytes(link(5, "0" * 64, {"time": 1.0, "decision": "blocked"})[0])
        assert [each["sequence"] for each in reader.read()] == [3, 4, 5]
        assert list(reader.read()) == []
        reader.close()

    def test_what_is_no_entry_is_left_out(self, tmp_path: Path) -> None:
        write(tmp_path, 2)
        with audit_files(tmp_path)[0].open("ab") as file:
            file.write(b'[]\n{"a":1}\n' + b"[" * 100_000 + b"\nnull\n")
        assert len(entries(tmp_path)) == 2

    def test_a_folder_without_an_audit_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(FailedPrecondition):
            verify(tmp_path)
