import os
import threading
from pathlib import Path

import pytest

from mesh.discovery import consul_binary, debian_package, find_consul
from mesh.discovery.debian_package import find_mirrors
from mesh.errors import FailedPrecondition

CONSUL = "#!/bin/sh\necho Consul v1.8.7\n"
# What `apt-get` does here: note the sources and the options, and put down a package as its name says.
APT_GET = """#!/bin/sh
while [ "$1" != update ] && [ "$1" != download ]; do
  [ "$1" = -c ] && config=$2
  shift
done
echo "$1" >> "$LOG"
cat "$config" "$(dirname "$config")/sources.list" >> "$LOG"
[ -n "$APT_FAILS" ] && { echo "E: The repository is not signed."; exit 100; }
[ "$1" = download ] && echo package > "$2_1.8.7_amd64.deb"
exit 0
"""
DPKG = """#!/bin/sh
[ "$1" = -x ] || exit 2
mkdir -p "$3/usr/bin"
cp "$FAKE_CONSUL" "$3/usr/bin/consul"
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of the Debian family without Consul, with tools that only pretend."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("apt-get", APT_GET), ("dpkg", DPKG)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    fake = tmp_path / "fake-consul"
    fake.write_text(CONSUL)
    fake.chmod(0o755)
    keyring = tmp_path / "keyring.gpg"
    keyring.write_text("")
    apt = tmp_path / "apt"
    (apt / "sources.list.d").mkdir(parents=True)
    (apt / "sources.list").write_text("deb http://mirror.test/debian bookworm main\n")
    for tool in ("sh", "cat", "dirname", "mkdir", "cp", "echo"):
        for folder in ("/bin", "/usr/bin"):
            if Path(folder, tool).exists() and not (programs / tool).exists():
                (programs / tool).symlink_to(Path(folder, tool))
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("FAKE_CONSUL", str(fake))
    monkeypatch.setattr(debian_package, "KEYRING", keyring)
    monkeypatch.setattr(debian_package.find_mirrors, "__defaults__", (apt,))
    return tmp_path


def test_consul_in_path_is_used_and_nothing_is_written(machine):
    (machine / "bin/consul").write_text(CONSUL)
    (machine / "bin/consul").chmod(0o755)
    assert find_consul(machine / "tools", progress=print) == machine / "bin/consul"
    assert not (machine / "tools").exists()


def test_a_fetched_consul_is_used_again(machine):
    told: list[str] = []
    first = find_consul(machine / "tools", progress=told.append)
    log = (machine / "log").read_text()
    assert find_consul(machine / "tools", progress=told.append) == first == machine / "tools/consul"
    assert (machine / "log").read_text() == log
    assert os.access(first, os.X_OK)
    assert any("fetching" in line for line in told)


def test_fetching_uses_the_machines_mirror_and_writes_below_the_tools_only(machine):
    find_consul(machine / "tools", progress=print)
    log = (machine / "log").read_text()
    assert f"deb [signed-by={machine}/keyring.gpg] http://mirror.test/debian bullseye main" in log
    for line in log.splitlines():
        if line.startswith(("Dir::State::lists", "Dir::Cache ", "Dir::Etc::sourcelist", "Dir::Log")):
            assert str(machine / "tools") in line
    assert "#clear APT::Update::Post-Invoke;" in log
    assert sorted(file.name for file in (machine / "tools").iterdir()) == [".consul.lock", "consul"]


def test_several_at_once_fetch_it_once(machine):
    found: list[Path] = []

    def find() -> None:
        found.append(find_consul(machine / "tools", progress=lambda text: None))

    threads = [threading.Thread(target=find) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert found == [machine / "tools/consul"] * 4
    assert (machine / "log").read_text().splitlines().count("download") == 1


def test_a_refusal_of_apt_is_told_in_its_words_and_leaves_nothing(machine, monkeypatch):
    monkeypatch.setenv("APT_FAILS", "1")
    with pytest.raises(FailedPrecondition, match="The repository is not signed") as caught:
        find_consul(machine / "tools", progress=print)
    assert "CONSUL_HTTP_ADDR" in caught.value.fix
    assert [file.name for file in (machine / "tools").iterdir()] == [".consul.lock"]


def test_a_consul_that_does_not_run_here_is_not_kept(machine):
    (machine / "fake-consul").write_text("#!/bin/sh\nexit 127\n")
    with pytest.raises(FailedPrecondition, match="does not run here"):
        find_consul(machine / "tools", progress=print)
    assert not (machine / "tools/consul").exists()


def test_a_machine_without_the_tools_is_told_what_it_lacks(machine):
    (machine / "bin/dpkg").unlink()
    with pytest.raises(FailedPrecondition, match="it lacks dpkg") as caught:
        find_consul(machine / "tools", progress=print)
    assert "Install Consul" in caught.value.fix


def test_a_machine_without_mirror_is_told_so(machine):
    (machine / "apt/sources.list").unlink()
    with pytest.raises(FailedPrecondition, match="No mirror of Debian"):
        find_consul(machine / "tools", progress=print)


def test_a_folder_that_cannot_be_made_is_named(machine):
    (machine / "file").write_text("")
    with pytest.raises(FailedPrecondition, match="file/tools"):
        find_consul(machine / "file/tools", progress=print)


def test_a_lock_that_is_held_too_long_is_named(machine, monkeypatch):
    monkeypatch.setattr(consul_binary, "LOCK_TIMEOUT", 0.0)
    (machine / "tools").mkdir()
    with (
        consul_binary._lock(machine / "tools/.consul.lock", print),
        pytest.raises(FailedPrecondition, match="Another process holds"),
    ):
        find_consul(machine / "tools", progress=print)


SOURCES = """\
# a comment
Types: deb deb-src
URIs: http://first.test/debian
  http://second.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://security.test/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://off.test/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://source.test/debian
Suites: bookworm
Components: main
"""


def test_mirrors_of_debian_are_found_in_both_formats_and_no_others(tmp_path):
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "debian.sources").write_text(SOURCES)
    (parts / "other.list").write_text(
        "deb [arch=amd64 signed-by=/etc/apt/keyrings/other.gpg] http://other.test/linux bookworm main\n"
        "# deb http://comment.test/debian bookworm main\n"
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://third.test/debian bullseye main # x\n"
        "deb http://cloud.test/apt cloud-sdk-bookworm main\n"
    )
    (parts / "old.list.save").write_text("deb http://saved.test/debian bookworm main\n")
    (tmp_path / "sources.list").write_text(
        "deb cdrom:[Debian]/ bookworm main\ndeb http://fourth.test/debian bookworm main non-free\n"
    )
    assert find_mirrors(tmp_path) == (
        "http://first.test/debian",
        "http://second.test/debian",
        "http://third.test/debian",
        "http://fourth.test/debian",
    )


def test_a_machine_without_sources_has_no_mirrors(tmp_path):
    assert find_mirrors(tmp_path) == ()
