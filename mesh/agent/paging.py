"""Page tokens of ListTasks.

A token names the last task of its page, not a count: tasks that come or go between two pages neither repeat nor hide
others. It holds only for the same agent process and the same filter.
"""

import base64
import binascii
import hashlib
import hmac
import secrets

from mesh.errors import InvalidInput

_TAG_BYTES = 12


class PageTokens:
    """Makes and reads the tokens of one process."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def make(self, serial: int, filters: str) -> str:
        """A token for the page after the task with this serial number."""
        number = serial.to_bytes(8, "big")
        return base64.urlsafe_b64encode(number + self._tag(number, filters)).decode().rstrip("=")

    def parse(self, token: str, filters: str) -> int | None:
        """The serial number in a token, None for no token; raises InvalidInput for any other text."""
        if not token:
            return None
        try:
            raw = base64.urlsafe_b64decode(token.encode() + b"=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            raw = b""
        number, tag = raw[:8], raw[8:]
        if len(number) != 8 or not hmac.compare_digest(tag, self._tag(number, filters)):
            raise InvalidInput(
                "The page token is none of this listing.",
                reason="BAD_PAGE_TOKEN",
                field="page_token",
                fix="Begin again without one; a token holds for one instance and for unchanged filters.",
            )
        return int.from_bytes(number, "big")

    def _tag(self, number: bytes, filters: str) -> bytes:
        return hmac.digest(self._key, number + filters.encode(errors="replace"), hashlib.sha256)[:_TAG_BYTES]
