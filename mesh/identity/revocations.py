"""Whose certificates count no more: services that an operator has shut out, kept in the authority's folder."""

import json
from datetime import datetime
from pathlib import Path

from mesh.errors import FailedPrecondition, PermissionDenied
from mesh.model import check_service_name
from mesh.runtime.private_files import hold_private_dir, read_secret, write_file

_FILE = "revoked.json"


class Revocations:
    """The revoked services, and since when. Several processes may use one folder; each sees what is new by `reload`."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE
        self._stamp: tuple[int, int] | None = None
        self._since: dict[str, datetime] = {}
        self.reload()

    @property
    def services(self) -> frozenset[str]:
        """The names of the revoked services."""
        return frozenset(self._since)

    def since(self, service: str) -> datetime | None:
        """When a service was revoked; None when it is not."""
        return self._since.get(service)

    def check(self, service: str) -> None:
        """Raise PermissionDenied when the service is revoked."""
        since = self._since.get(service)
        if since is not None:
            raise PermissionDenied(
                f"The identity of {service} was revoked at {since.isoformat(timespec='seconds')}.",
                reason="IDENTITY_REVOKED",
                field="service",
                fix=f"An operator takes it back with `meshctl certs restore {service}`.",
            )

    def revoke(self, service: str, now: datetime) -> None:
        """Shut a service out; on disk when this returns. One that is revoked stays so since then."""
        check_service_name(service)
        with hold_private_dir(self._path.parent):
            self._take(self._read())
            if service not in self._since:
                self._write({**self._since, service: now})

    def restore(self, service: str) -> None:
        """Let a service in again; one that is not revoked is in. On disk when this returns."""
        with hold_private_dir(self._path.parent):
            self._take(self._read())
            if service in self._since:
                self._write({name: since for name, since in self._since.items() if name != service})

    def reload(self) -> bool:
        """Take what another process has written; tells whether the file is another one."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self._take(self._read())
        return True

    def _take(self, since: dict[str, datetime]) -> None:
        self._since = since

    def _read(self) -> dict[str, datetime]:
        data = read_secret(self._path)
        if data is None:
            return {}
        try:
            return {str(name): datetime.fromisoformat(since) for name, since in json.loads(data).items()}
        except (ValueError, TypeError, AttributeError) as err:
            raise FailedPrecondition(
                f"{self._path} is damaged.",
                field=str(self._path),
                fix="Restore it from a copy; without it revoked services are let in again.",
            ) from err

    def _write(self, since: dict[str, datetime]) -> None:
        content = {name: moment.isoformat() for name, moment in sorted(since.items())}
        write_file(self._path, (json.dumps(content, indent=1) + "\n").encode(), mode=0o600)
        self._since = since
        self._stamp = self._read_stamp()

    def _read_stamp(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino
