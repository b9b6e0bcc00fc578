from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.utilities.encoding import decode, encode

Call = Callable[..., Awaitable[dict[str, Any]]]
Refusal = Callable[..., Awaitable[str]]
CHARACTERS = st.characters(exclude_categories=["Cs"])


@pytest.mark.parametrize(
    ("algorithm", "digest", "is_secure"),
    [
        # FIPS 180-4, FIPS 202, RFC 7693 and RFC 1321 A.5, the message "abc".
        ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", True),
        ("sha224", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7", True),
        ("sha3_256", "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532", True),
        ("blake2s", "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982", True),
        ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d", False),
        ("md5", "900150983cd24fb0d6963f7d28e17f72", False),
    ],
)
async def test_known_hash(call: Call, algorithm: str, digest: str, is_secure: bool) -> None:
    found = await call("hash_text", text="abc", algorithm=algorithm)
    assert found == {"digest": digest, "algorithm": algorithm, "is_secure": is_secure}


@pytest.mark.parametrize(
    ("format", "text", "encoded"),
    [
        # RFC 4648, section 10.
        ("base64", "foobar", "Zm9vYmFy"),
        ("base64", "fo", "Zm8="),
        ("base64url", "fo", "Zm8"),
        ("base64url", "ÿþ?>", "w7_Dvj8-"),
        ("base32", "foobar", "MZXW6YTBOI======"),
        ("hex", "foobar", "666f6f626172"),
        ("url", "a b/ü+%", "a%20b%2F%C3%BC%2B%25"),
        ("html", '<b title="x">&\'</b>', "&lt;b title=&quot;x&quot;&gt;&amp;&#x27;&lt;/b&gt;"),
    ],
)
async def test_known_encoding(call: Call, format: str, text: str, encoded: str) -> None:  # noqa: A002
    assert await call("encode", text=text, format=format) == {"text": encoded}
    assert await call("decode", text=encoded, format=format) == {"text": text}


@pytest.mark.parametrize(
    ("format", "encoded", "text"),
    [
        ("base64", " Zm9v\n YmFy\n", "foobar"),
        ("base64url", "Zm8=", "fo"),
        ("base32", "mzxw6ytboi======", "foobar"),
        ("hex", "0x41 42", "AB"),
        ("url", "a+b", "a+b"),
        ("html", "&eacute;&#233;&bogus;", "éé&bogus;"),
        ("base64", "", ""),
    ],
)
async def test_what_others_write_differently_is_read(call: Call, format: str, encoded: str, text: str) -> None:  # noqa: A002
    assert await call("decode", text=encoded, format=format) == {"text": text}


@pytest.mark.parametrize(
    ("format", "text", "words"),
    [
        ("base64", "abc!", "text: character 4, '!', is not base64."),
        ("base64", "a-_b", "character 2, '-_b', is not base64. Use base64url"),
        ("base64url", "a+/b", "character 2, '+/b', is not base64url. Use base64 for"),
        ("base64", "Zm8", "text: 3 characters are no base64: four are a group. Fill up with =."),
        ("base64", "Zm9vY", "text: 5 characters are no complete base64. Check that nothing was cut off."),
        ("base64", "Q=Q=", "no complete base64"),
        ("base64", "/w==", "the 1 decoded bytes are no text: byte 0 is not UTF-8. It may be a file"),
        ("base32", "MZXW6", "text: 5 characters are no complete base32"),
        ("hex", "  xyz", "text: character 3, 'xyz', is not hex"),
        ("hex", "0x4", "text: 1 characters are no complete hex"),
        ("url", "100%zz", "text: character 4, '%zz', is not url. A percent sign stands as %25."),
        ("url", "100%", "text: character 4, '%', is not url"),
        ("url", "%ff", "byte 0 is not UTF-8"),
        ("rot13", "a", "format: input should be 'base64'"),
        ("base64", "é", "text: character 1, 'é', is not base64"),
    ],
)
async def test_what_cannot_be_decoded_is_refused_with_place_and_fix(
    refusal: Refusal,
    format: str,  # noqa: A002
    text: str,
    words: str,
) -> None:
    assert words in await refusal("decode", text=text, format=format)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"text": "\ud800"}, "text:"),
        ({"text": "a" * 1_000_001}, "text: 1000001 characters; at most 1000000 are accepted"),
        ({"text": "a", "algorithm": "crc32"}, "algorithm: input should be 'sha224'"),
        ({"text": 5}, "text: input should be a valid string, not '5'"),
        ({}, "text: it is missing."),
    ],
)
async def test_what_cannot_be_hashed_is_refused(refusal: Refusal, arguments: dict[str, Any], words: str) -> None:
    assert words in await refusal("hash_text", **arguments)


@given(st.text(CHARACTERS, max_size=200), st.sampled_from(["base64", "base64url", "base32", "hex", "url", "html"]))
def test_decoding_gives_back_what_was_encoded(text: str, format: Any) -> None:  # noqa: A002
    assert decode(encode(text, format).text, format).text == text
