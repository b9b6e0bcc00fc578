"""A split is changed in the text that people wrote, and nothing else is."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import InvalidInput
from services.control_plane.canary.split_text import with_split

SPLIT = {"echo/v1": 95, "echo/v2": 5}
FLOW = "{echo/v1: 95, echo/v2: 5}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", f"services:\n  echo:\n    split: {FLOW}\n"),
        ("# nothing yet", f"# nothing yet\nservices:\n  echo:\n    split: {FLOW}\n"),
        ("mesh: {}\n", f"mesh: {{}}\nservices:\n  echo:\n    split: {FLOW}\n"),
        (
            "services:\n  # ours\n  other: {}\n",
            f"services:\n  # ours\n  echo: {{split: {FLOW}}}\n  other: {{}}\n",
        ),
        (
            "services:\n  echo:\n    subsets: {v1: {version: '1'}}  # old\n",
            f"services:\n  echo:\n    split: {FLOW}\n    subsets: {{v1: {{version: '1'}}}}  # old\n",
        ),
        (
            "services:\n  echo:\n    split: {echo/v1: 100}  # for now\n    timeout: 1s\n",
            f"services:\n  echo:\n    split: {FLOW}  # for now\n    timeout: 1s\n",
        ),
        (
            "services:\n  echo:\n    split:\n      echo/v1: 9\n      echo/v2: 0 # few\n    # so\n    timeout: 1s\n",
            f"services:\n  echo:\n    split:\n      {FLOW} # few\n    # so\n    timeout: 1s\n",
        ),
        (
            "services: {echo: {timeout: 1s}, other: {}}\n",
            f"services: {{echo: {{split: {FLOW}, timeout: 1s}}, other: {{}}}}\n",
        ),
        ("services: {}\n", f"services: {{echo: {{split: {FLOW}}}}}\n"),
    ],
)
def test_only_the_split_changes(text, expected):
    assert with_split(text, "echo", SPLIT) == expected


@pytest.mark.parametrize(
    "text",
    [
        "services:\n  echo: &it\n    split: {echo/v1: 100}\n  other: *it\n",
        "base: &base {split: {echo/v1: 100}}\nservices:\n  echo:\n    <<: *base\n",
        "services:\n  echo:\n",
        "services:\n",
        "services: null",
        "services:\n  echo:\n    split:\n",
    ],
)
def test_rare_forms_mean_the_same_afterwards(text):
    before, after = yaml.safe_load(text), yaml.safe_load(with_split(text, "echo", SPLIT))
    assert after["services"]["echo"]["split"] == SPLIT
    others = {name: it for name, it in (before["services"] or {}).items() if name != "echo"}
    assert {name: it for name, it in after["services"].items() if name != "echo"} == others


values = st.recursive(
    st.integers() | st.booleans() | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from(["echo", "b", "c"]),
        st.fixed_dictionaries(
            {}, optional={"split": st.dictionaries(st.sampled_from(["x", "y"]), st.integers(0, 9)), "timeout": values}
        ),
    ),
    st.booleans(),
)
def test_any_document_keeps_its_other_values(services, flow):
    text = yaml.safe_dump({"mesh": {"a": 1}, "services": services}, default_flow_style=flow or None)
    expected = {"mesh": {"a": 1}, "services": {**services, "echo": {**services.get("echo", {}), "split": SPLIT}}}
    assert yaml.safe_load(with_split(text, "echo", SPLIT)) == expected


@pytest.mark.parametrize("text", ["{", "[]", "services: []", "services: {echo: 1}", "a: b: c"])
def test_what_is_no_document_is_refused(text):
    with pytest.raises(InvalidInput):
        with_split(text, "echo", SPLIT)
