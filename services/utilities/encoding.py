"""Hashes and encodings of texts."""

import base64
import binascii
import hashlib
import html
import re
import urllib.parse
from typing import Annotated, Literal

from pydantic import Field

from services.tool_server import InvalidArgument, Result, quote

__all__ = ["Digest", "Text", "decode", "encode", "hash_text"]

MAX_CHARACTERS = 1_000_000

Given = Annotated[str, Field(max_length=MAX_CHARACTERS, description="a text of at most a million characters")]
Format = Literal["base64", "base64url", "base32", "hex", "url", "html"]
Algorithm = Literal[
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    "sha3_224",
    "sha3_256",
    "sha3_384",
    "sha3_512",
    "blake2b",
    "blake2s",
    "sha1",
    "md5",
]

_BROKEN = {"sha1", "md5"}
# What each encoding is written with; html and url hold any character.
_ALPHABETS: dict[str, tuple[re.Pattern[str], str]] = {
    "base64": (re.compile(r"[^A-Za-z0-9+/=\s]"), "Use base64url for - and _."),
    "base64url": (re.compile(r"[^A-Za-z0-9_=\s-]"), "Use base64 for + and /."),
    "base32": (re.compile(r"[^A-Za-z2-7=\s]"), "It is written with A to Z, 2 to 7 and =."),
    "hex": (re.compile(r"[^0-9A-Fa-f\s]"), "It is written with 0 to 9 and a to f."),
    "url": (re.compile(r"%(?![0-9A-Fa-f]{2})"), "A percent sign stands as %25."),
}


class Digest(Result):
    """The hash of a text in UTF-8, in hexadecimal digits. `is_secure` is false where collisions can be made."""

    digest: str
    algorithm: str
    is_secure: bool


class Text(Result):
    """A text."""

    text: str


def hash_text(text: Given, algorithm: Algorithm = "sha256") -> Digest:
    """The hash of a text. Use sha256 or better: md5 and sha1 are not secure."""
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
    data = _decode(text, format)
    try:
        return Text(text=data.decode())
    except UnicodeDecodeError as err:
        raise InvalidArgument(
            "text",
            f"the {len(data)} decoded bytes are no text: byte {err.start} is not UTF-8.",
            f"It may be a file or a key rather than text, or not be {format}.",
        ) from err


def _decode(text: str, format: str) -> bytes:  # noqa: A002
    given = text.lstrip()
    if format == "hex" and given[:2] in ("0x", "0X"):
        given = given[2:]
    wrong, fix = _ALPHABETS[format]
    if found := wrong.search(given):
        position = found.start() + len(text) - len(given)
        raise InvalidArgument(
            "text", f"character {position + 1}, {quote(text[position : position + 3])}, is not {format}.", fix
        )
    compact = "".join(given.split())
    match format:
        case "base64" | "base64url":
            digits = compact.rstrip("=")
            if len(digits) % 4 == 1 or "=" in digits:
                raise _incomplete(format, len(compact))
            if format == "base64" and len(compact) % 4:
                raise InvalidArgument(
                    "text", f"{len(compact)} characters are no base64: four are a group.", "Fill up with =."
                )
            return base64.b64decode(digits + "=" * (-len(digits) % 4), altchars=b"-_" if format != "base64" else None)
        case "base32":
            try:
                return base64.b32decode(compact, casefold=True)
            except binascii.Error as err:
                raise _incomplete(format, len(compact)) from err
        case "hex":
            if len(compact) % 2:
                raise _incomplete(format, len(compact))
            return bytes.fromhex(compact)
        case _:
            return urllib.parse.unquote_to_bytes(text)


def _incomplete(format: str, length: int) -> InvalidArgument:  # noqa: A002
    return InvalidArgument("text", f"{length} characters are no complete {format}.", "Check that nothing was cut off.")


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as err:
        raise InvalidArgument(
            "text", f"character {err.start} is half of a surrogate pair.", "Send whole characters."
        ) from err
