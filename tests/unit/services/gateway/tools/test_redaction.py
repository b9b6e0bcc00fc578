import json

from hypothesis import given
from hypothesis import strategies as st

from mesh.config.document.tools import Tools
from services.gateway.tools.policy import ToolPolicy
from services.gateway.tools.redaction import redact


def redactions(**patterns):
    rules = {"one": {"redact": {name: {"pattern": pattern} for name, pattern in patterns.items()}}}
    return ToolPolicy(Tools.model_validate_json(json.dumps({"rules": rules}))).rules_for("s", "t", ()).redactions


CARD = redactions(card=r"\b\d{4} \d{4}\b")
TEXTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_all_texts_are_redacted_and_nothing_else():
    result = {
        "content": [{"type": "text", "text": "no 1234 5678."}, {"type": "image", "data": "1234 5678"}],
        "structuredContent": {"deep": [{"er": "1234 5678"}], "number": 12345678},
        "isError": False,
        "_meta": {"x": "1234 5678"},
    }
    assert json.loads(redact(json.dumps(result).encode(), CARD)) == {
        "content": [{"type": "text", "text": "no [redacted]."}, {"type": "image", "data": "1234 5678"}],
        "structuredContent": {"deep": [{"er": "[redacted]"}], "number": 12345678},
        "isError": False,
        "_meta": {"x": "1234 5678"},
    }


def test_what_has_nothing_to_hide_stays_as_it_is_byte_for_byte():
    text = b'{ "content": [ {"type":"text","text":"\\u0041"} ], "n": 1.50 }'
    assert redact(text, CARD) is text
    assert redact(text, ()) is text


def test_a_backslash_in_a_replacement_is_one():
    rules = {"one": {"redact": {"x": {"pattern": "a", "replacement": r"\1"}}}}
    found = ToolPolicy(Tools.model_validate_json(json.dumps({"rules": rules}))).rules_for("s", "t", ())
    assert json.loads(redact(b'{"x":"a"}', found.redactions)) == {"x": r"\1"}


@given(st.dictionaries(st.text(), TEXTS))
def test_no_text_gets_through(value):
    letters = redactions(all=r"[a-z]")
    made = json.loads(redact(json.dumps({"content": value}).encode(), letters))

    def texts(found, name=""):
        if name in ("type", "mimeType", "data", "blob", "resultType", "_meta"):
            return
        if isinstance(found, str):
            yield found
        for item in found if isinstance(found, list) else ():
            yield from texts(item)
        for key, item in found.items() if isinstance(found, dict) else ():
            yield from texts(item, key)

    assert not any("a" <= char <= "z" for text in texts(made) for char in text.replace("[redacted]", ""))
