"""A JSON object in a file that several processes may change: each change is made under a lock, on what is newest."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mesh.errors import FailedPrecondition
from mesh.runtime.private_files import hold_private_dir, read_secret, write_file

Content = Mapping[str, Any]


class Stored:
    """The object. `content` is what was read or written last; `reload` takes over what another process has written.

    Its folder has mode 0700, the file 0600. Raises FailedPrecondition when the file is damaged or cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self.content: Content = MappingProxyType({})
        self.reload()

    def reload(self) -> bool:
        """Read the file again if it is another one; tells whether it is."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self.content = self._read()
        return True

    def change(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Let `change` work on a copy of what is newest, and keep that; on disk when this returns.

        What `change` raises is raised, and nothing is changed. Blocks while another process changes the file.
        """
        with hold_private_dir(self._path.parent):
            before = self._read()
            content = dict(before)
            change(content)
            if content != before:
                write_file(self._path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode(), mode=0o600)
            self._stamp = self._read_stamp()
            self.content = MappingProxyType(content)

    def _read(self) -> dict[str, Any]:
        data = read_secret(self._path)
        if data is None:
            return {}
        try:
            content = json.loads(data)
            if not isinstance(content, dict):
                raise ValueError("it is no object")
        except ValueError as err:
            raise FailedPrecondition(
                f"{self._path} is damaged: {err}.", field=str(self._path), fix="Restore it from a copy."
            ) from err
        return content

    def _read_stamp(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino
