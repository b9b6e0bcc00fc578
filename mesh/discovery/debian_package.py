"""Unpacking a program from a Debian package, without touching the system.

The machine's own mirror is used with a sources list of our own; the package is verified by apt against Debian's
archive keyring. Nothing is installed: the package is unpacked into a folder. Needs no root.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mesh.errors import FailedPrecondition

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT_DIR = Path("/etc/apt")
TIMEOUT = 180.0

_TOOLS = ("apt-get", "dpkg")
_DEBIAN_SUITE = re.compile(
    r"(buster|bullseye|bookworm|trixie|forky|duke|sid|stable|oldstable|oldoldstable|testing|unstable)"
    r"(-updates|-backports)?"
)
_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.*)")


def missing_for_packages() -> str:
    """What this machine lacks to unpack Debian packages, in words; "" when nothing."""
    lacking = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if not KEYRING.is_file():
        lacking.append(str(KEYRING))
    return " and ".join(lacking)


def find_mirrors(apt_dir: Path = APT_DIR) -> tuple[str, ...]:
    """The mirrors of Debian's main archive that this machine is set up with; likely ones first.

    Other archives use Debian's suite names too, so one that is signed by Debian's own keyring comes first. A wrong
    one does no harm: apt refuses what Debian has not signed.
    """
    likely: list[str] = []
    possible: list[str] = []
    for source in _sources(apt_dir):
        if "main" not in source["components"].split() or not source["uris"]:
            continue
        if not any(_DEBIAN_SUITE.fullmatch(suite) for suite in source["suites"].split()):
            continue
        signed_by = source["signed-by"]
        if signed_by and "debian-archive" not in signed_by:
            continue
        (likely if signed_by else possible).extend(
            uri for uri in source["uris"].split() if not uri.startswith(("cdrom:", "file:", "copy:"))
        )
    return tuple(dict.fromkeys([*likely, *possible]))


def unpack_package(package: str, suite: str, folder: Path, *, progress: Callable[[str], None]) -> Path:
    """Download `package` of `suite` and unpack it under `folder`; gives the root of its files.

    Raises FailedPrecondition with the tools' own words when no mirror gives it.
    """
    mirrors = find_mirrors()
    if not mirrors:
        raise FailedPrecondition("No mirror of Debian is set up on this machine.", reason="NO_MIRROR")
    reasons = []
    for mirror in mirrors:
        progress(f"fetching {package} of Debian {suite} from this machine's mirror")
        try:
            return _unpack_from(mirror, package, suite, folder)
        except FailedPrecondition as err:
            reasons.append(err.summary)
    raise FailedPrecondition(" ".join(reasons), reason="NO_PACKAGE")


def _unpack_from(mirror: str, package: str, suite: str, folder: Path) -> Path:
    apt = folder / "apt"
    shutil.rmtree(apt, ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial", "download"):
        (apt / name).mkdir(parents=True)
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n")
    config = apt / "apt.conf"
    config.write_text(_build_config(apt))
    command = ("apt-get", "-qq", "-c", str(config))
    _run((*command, "update"), cwd=folder)
    _run((*command, "download", package), cwd=apt / "download")
    files = sorted((apt / "download").glob("*.deb"))
    if not files:
        raise FailedPrecondition(f"{mirror} has no package {package}.", reason="NO_PACKAGE")
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    _run(("dpkg", "-x", str(files[0]), str(root)), cwd=folder)
    return root


def _build_config(apt: Path) -> str:
    """apt's settings: everything it writes is below `apt`, and the system's hooks do not run.

    The system's own configuration is still read before, for its proxy and its network settings.
    """
    settings: Mapping[str, str] = {
        "Dir::Etc::sourcelist": str(apt / "sources.list"),
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": str(apt / "lists"),
        "Dir::Cache": str(apt / "cache"),
        "Dir::Cache::archives": str(apt / "cache/archives"),
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Dir::Log": str(apt),
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "20",
        "Acquire::https::Timeout": "20",
        "APT::Get::List-Cleanup": "false",
    }
    hooks = ("APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success")
    lines = [f"#clear {name};" for name in hooks] + ["#clear Acquire::IndexTargets::deb::DEP-11;"]
    lines += [f'{key} "{value}";' for key, value in settings.items()]
    if os.geteuid() == 0:
        # As root apt drops to a user of its own, who may not write below a private folder.
        lines.append('APT::Sandbox::User "root";')
    return "\n".join(lines) + "\n"


def _run(command: tuple[str, ...], *, cwd: Path) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as err:
        raise FailedPrecondition(f"{command[0]} took more than {TIMEOUT:g} s.", reason="NO_PACKAGE") from err
    if done.returncode:
        words = " ".join(done.stdout.split()[-60:]) or f"status {done.returncode}"
        raise FailedPrecondition(f"{command[0]} says: {words}", reason="NO_PACKAGE")


def _sources(apt_dir: Path) -> Iterator[dict[str, str]]:
    """Every enabled source of binary packages, as deb822 fields in lower case."""
    parts = apt_dir / "sources.list.d"
    files = [apt_dir / "sources.list", *(sorted(parts.iterdir()) if parts.is_dir() else [])]
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        if file.suffix == ".sources":
            yield from _parse_deb822(text)
        elif file.suffix == ".list":
            yield from _parse_one_line(text)


def _parse_deb822(text: str) -> Iterator[dict[str, str]]:
    """https://manpages.debian.org/bookworm/apt/sources.list.5.en.html, DEB822-STYLE FORMAT."""
    for stanza in re.split(r"\n\s*\n", text):
        fields = {"uris": "", "suites": "", "components": "", "signed-by": "", "types": "", "enabled": "yes"}
        key = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields[key] = f"{fields.get(key, '')} {line.strip()}"
            else:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if "deb" in fields["types"].split() and fields["enabled"].lower() not in {"no", "false", "0"}:
            yield fields


def _parse_one_line(text: str) -> Iterator[dict[str, str]]:
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match:
            signed_by = re.search(r"signed-by=(\S+)", match["options"] or "")
            yield {
                "uris": match["uri"],
                "suites": match["suite"],
                "components": match["components"],
                "signed-by": signed_by[1] if signed_by else "",
            }
