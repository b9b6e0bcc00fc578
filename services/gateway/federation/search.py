"""Search over tools: BM25 over their names, titles, descriptions and arguments.

Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond (2009), section 3.6: fields with weights
(BM25F). No model of language ships in a package that is small enough; words that mean the same are not known as such.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.gateway.federation.shelf import Offer

_K1, _B = 1.2, 0.6
_WEIGHTS = {"name": 4.0, "title": 3.0, "description": 1.5, "arguments": 0.7}
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_a-zA-Z]+")
_STOP = frozenset(
    (
        *(
            "a",
            "an",
            "and",
            "are",
            "as",
            "at",
            "be",
            "by",
            "can",
            "do",
            "for",
            "from",
            "get",
            "how",
            "i",
            "in",
            "into",
            "is",
        ),
        *(
            "it",
            "its",
            "me",
            "my",
            "of",
            "on",
            "or",
            "our",
            "please",
            "some",
            "that",
            "the",
            "this",
            "to",
            "use",
            "want",
        ),
        *("what", "which", "will", "with", "you", "your"),
    )
)
_CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Found:
    """A tool, and how well it fits: only the order of scores means something."""

    offer: Offer
    score: float


class ToolIndex:
    """An index of tools; made anew when they change, which takes about 50 microseconds a tool."""

    def __init__(self, offers: Sequence[Offer]) -> None:
        self._offers = tuple(offers)
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        texts = [_fields(offer) for offer in self._offers]
        average = {name: sum(len(text[name]) for text in texts) / max(1, len(texts)) or 1.0 for name in _WEIGHTS}
        for number, text in enumerate(texts):
            weights: dict[str, float] = defaultdict(float)
            for name, weight in _WEIGHTS.items():
                length = 1 - _B + _B * len(text[name]) / average[name]
                for word, count in Counter(text[name]).items():
                    weights[word] += weight * count / length
            for word, value in weights.items():
                self._postings[word].append((number, value))

    def search(self, query: str, most: int) -> list[Found]:
        """The best fitting tools, best first; ties by name."""
        scores: dict[int, float] = defaultdict(float)
        for word in set(words_of(query)):
            postings = self._postings.get(word, ())
            rarity = math.log(1 + (len(self._offers) - len(postings) + 0.5) / (len(postings) + 0.5))
            for number, value in postings:
                scores[number] += rarity * value / (_K1 + value)
        best = sorted(scores.items(), key=lambda item: (-item[1], self._offers[item[0]].shown))[:most]
        return [Found(self._offers[number], round(score, 4)) for number, score in best]


def words_of(text: str) -> list[str]:
    """The words of a text, also of names such as readFile and read_file, in their simple form."""
    return [_stem(word) for word in (each.lower() for each in _WORD.findall(text)) if word not in _STOP]


def tokens_in(size: int) -> int:
    """About how many tokens of a model so many characters are: a quarter, as is usual for English and JSON."""
    return size // _CHARS_PER_TOKEN


def summary_of(facts: Mapping[str, Any]) -> str:
    """The first sentence of a description, at most 200 characters."""
    text = " ".join(str(facts.get("description") or facts.get("title") or "").split())
    end = text.find(". ")
    return (text if end < 0 else text[: end + 1])[:200]


def _fields(offer: Offer) -> dict[str, list[str]]:
    facts = offer.facts
    annotations = facts.get("annotations")
    title = facts.get("title") or (annotations.get("title") if isinstance(annotations, dict) else "") or ""
    schema = facts.get("inputSchema")
    return {
        "name": words_of(f"{offer.key} {offer.server}"),
        "title": words_of(str(title)),
        "description": words_of(str(facts.get("description") or "")),
        "arguments": words_of(" ".join(_arguments(schema, 0))),
    }


def _arguments(schema: Any, depth: int) -> list[str]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or depth > 3:
        return []
    found: list[str] = []
    for name, inner in properties.items():
        found.append(str(name))
        if isinstance(inner, dict):
            found += [str(inner.get("description") or ""), *_arguments(inner, depth + 1)]
    return found


def _stem(word: str) -> str:
    """Plural and simple verb forms without their ends: crude, and the same for queries and tools."""
    for end, least in (("ations", 4), ("ation", 4), ("ings", 4), ("ing", 4), ("ies", 3), ("ers", 4), ("er", 4)):
        if word.endswith(end) and len(word) - len(end) >= least:
            return word[: -len(end)] + ("y" if end == "ies" else "")
    for end in ("es", "ed", "s", "e"):
        if word.endswith(end) and len(word) - len(end) >= 3 and not word.endswith("ss"):
            return word[: -len(end)]
    return word
