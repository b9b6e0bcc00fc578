"""Hashes and encodings of texts."""

import base64
import binascii
import hashlib
import html
import urllib.parse
from typing import Annotated, Literal

from pydantic import Field

from services.tool_server import InvalidArgument, Result

__all__ = ["Digest", "Text", "decode", "encode", "hash_text"]

MAX_CHARACTERS = 1_000_000

Given = Annotated[str, Field(max_length=MAX_CHARACTERS)]
Format = Literal["base64", "base64url", "base32", "hex", "url", "html"]
Algorithm = Literal["sha256", "sha512", "sha3_256", "sha3_512", "blake2b", "blake2s", "sha1", "md5"]

_BROKEN = {"sha1", "md5"}


class Digest(Result):
    """The hash of a text in UTF-8, in hexadecimal digits. `is_secure` is false where collisions can be made."""

    digest: str
    algorithm: str
    is_secure: bool


class Text(Result):
    """A text."""

    text: str


def hash_text(text: Given, algorithm: Algorithm = "sha256") -> Digest:
    """The hash of a text."""
    digest = hashlib.new(algorithm, _encode(text), usedforsecurity=False).hexdigest()
    return Digest(digest=digest, algorithm=algorithm, is_secure=algorithm not in _BROKEN)


def encode(text: Given, format: Format) -> Text:  # noqa: A002 - the name in the tool's schema
    """Write a text in an encoding; bytes are those of UTF-8."""
    data = _encode(text)
    match format:
        case "base64":
            return Text(text=base64.b64encode(data).decode())
        case "base64url":
            return Text(text=base64.urlsafe_b64encode(data).decode().rstrip("="))
        case "base32":
            return Text(text=base64.b32encode(data).decode())
        case "hex":
            return Text(text=data.hex())
        case "url":
            return Text(text=urllib.parse.quote(data, safe=""))
        case "html":
            return Text(text=html.escape(text))


def decode(text: Given, format: Format) -> Text:  # noqa: A002 - the name in the tool's schema
    """Read a text that was written in an encoding; the bytes must be UTF-8."""
    if format == "html":
        return Text(text=html.unescape(text))
    try:
        data = _decode(text, format)
    except (ValueError, binascii.Error) as err:
        raise InvalidArgument("text", f"it is not {format}: {err}.", "Check that nothing was cut off.") from err
    try:
        return Text(text=data.decode())
    except UnicodeDecodeError as err:
        raise InvalidArgument(
            "text", f"the {len(data)} decoded bytes are no text: byte {err.start} is not UTF-8.", "Give encoded text."
        ) from err


def _decode(text: str, format: str) -> bytes:  # noqa: A002
    compact = "".join(text.split())
    match format:
        case "base64":
            return base64.b64decode(compact, validate=True)
        case "base64url":
            padded = compact.rstrip("=")
            return base64.b64decode(padded + "=" * (-len(padded) % 4), altchars=b"-_", validate=True)
        case "base32":
            return base64.b32decode(compact, casefold=True)
        case "hex":
            return bytes.fromhex(compact.removeprefix("0x"))
        case _:
            return urllib.parse.unquote_to_bytes(text)


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as err:
        raise InvalidArgument(
            "text", f"character {err.start} is half of a surrogate pair.", "Send whole characters."
        ) from err
