"""What two questions must share before their likeness counts: numbers, names, negations, opposites, the question.

Sentence embeddings hardly tell "before" from "after" or 2023 from 2024 (measured: docs/design/caches.md), so these
are compared exactly, as part of a keyed digest; no text is stored. Errs to the side of a miss.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, Final

_WORDS: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d[\d.,:/%-]*\w*|[$€£¥%]", re.UNICODE)


def _list(words: str) -> list[str]:
    return words.split()


_NUMBER_WORDS: Final = {
    word: str(number)
    for number, word in enumerate(
        _list(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty
    """
)
    )
} | {
    "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90",
    "hundred": "100", "thousand": "1000", "million": "1000000", "billion": "1000000000", "dozen": "12",
    "half": "0.5", "once": "1", "twice": "2", "first": "#1", "second": "#2", "third": "#3", "fourth": "#4",
    "fifth": "#5", "last": "#-1",
}  # fmt: skip
_NEGATIONS: Final = frozenset(
    _list(
        """
    not no never none nobody nothing nowhere neither nor without cannot isnt arent wasnt werent dont
    doesnt didnt wont wouldnt cant couldnt shouldnt mustnt hasnt havent hadnt except unless avoid stop
    prevent deny refuse fail fails failed lack lacks lacking exclude excluding excluded false incorrect
    wrong illegal unable impossible
    """
    )
)
# Words that turn a question round; each stands for itself, so "open" against "close" differs.
_POLAR: Final = frozenset(
    _list(
        """
        before after above below over under more less most least fewer greater smaller larger bigger
        increase decrease increased decreased increases decreases rise fall rises falls raise lower
        lowest highest higher maximum minimum max min best worst better worse start end begin finish
        open close opened closed opening closing enable disable enabled disabled allow forbid
        allowed forbidden buy sell bought sold import export out off up down left right north south
        east west add remove install uninstall create delete accept reject win lose won lost hot
        cold old new older newer oldest newest first last early late earliest latest long short
        longest shortest fast slow fastest slowest legal public private internal external inside
        outside input output upload download encrypt decrypt login logout male female men women man
        woman mother father husband wife brother sister son daughter king queen monday tuesday
        wednesday thursday friday saturday sunday january february march april june july august
        september october november december today tomorrow yesterday morning evening night summer
        winter spring autumn always sometimes often rarely all every only advantages disadvantages
        pros cons cause effect causes effects safe unsafe positive negative true alive dead dies
        born death birth black white red green blue yellow love hate dislike
        """
    )
)
_QUESTIONS: Final = frozenset(["who", "whom", "whose", "when", "where", "why", "which", "how", "what"])
_HOW: Final = frozenset(["many", "much", "long", "far", "old", "often", "tall", "big", "deep", "fast"])
_STARTERS: Final = frozenset(
    [
        "please",
        "tell",
        "explain",
        "describe",
        "give",
        "list",
        "name",
        "define",
        "compare",
        "summarise",
        "summarize",
    ]
)
_UNITS: Final = frozenset(_list(
    """
    km kilometers kilometres miles mile meters metres feet kg pounds grams celsius fahrenheit usd eur
    gbp dollars euros pounds hours minutes seconds days weeks months years percent
    """
))  # fmt: skip


def _plain(word: str) -> str:
    return word.lower().replace("'", "").replace("’", "")


def features_of(text: str) -> dict[str, Any]:
    """Numbers, names, negations, opposites and kind of question in ``text``.

    Numbers and names keep their order: from Paris to Rome is not from Rome to Paris.
    Names are words with a capital or in capitals after the first word of a sentence, words with digits or joined by
    underscores, and what stands in quotation marks. Negations are counted, so two do not cancel.
    """
    words = _WORDS.findall(text)
    lowered = [_plain(word) for word in words]
    numbers = [
        _NUMBER_WORDS.get(low) or low.strip(".,:/-")
        for low in lowered
        if low[0].isdigit() or low in _NUMBER_WORDS or low in "$€£¥%"
    ]
    quoted = sorted(
        " ".join(found.lower().split()) for found in re.findall(r"[\"“«`]([^\"”»`]{1,200})[\"”»`]", text)
    )
    placeholders = sorted(re.findall(r"[\[<{]{1,2}[A-Z][A-Z0-9_:]*[\]>}]{1,2}|[A-Za-z]\w*_\w+", text))
    asked = [low for low in lowered if low in _QUESTIONS]
    how = [f"how {second}" for first, second in pairwise(lowered)
           if first == "how" and second in _HOW]  # fmt: skip
    return {
        "numbers": numbers,
        "names": _names(text),
        "quoted": quoted,
        "placeholders": placeholders,
        "negations": sum(low in _NEGATIONS or (low.endswith("nt") and "'" in word.replace("’", "'"))
                         for word, low in zip(words, lowered, strict=True)),
        "polar": sorted({low for low in lowered if low in _POLAR or low in _UNITS}),
        # "What is" and "tell me" ask alike; who, when, where, why and how do not.
        "question": sorted({one for one in asked if one not in {"what", "which", "how"}} | set(how)),
    }  # fmt: skip


def _names(text: str) -> list[str]:
    found = []
    for sentence in re.split(r"[.!?:;\n]\s*", text):
        words = [word for word in _WORDS.findall(sentence) if word[0].isalpha()]
        for position, word in enumerate(words):
            capitals = sum(letter.isupper() for letter in word)
            if word.lower() in {"i", "i'm", "i'd", "i'll", "i've"} or not capitals:
                continue
            # A word that opens a sentence is a name only if it could not open one otherwise.
            if position == 0 and capitals == 1 and (
                len(words) > 1 and (_plain(word) in _QUESTIONS | _STARTERS or not words[1][0].isupper())
            ):  # fmt: skip
                continue
            low = _plain(word)
            found.append(low.removesuffix("s") if word.endswith(("'s", "’s")) else low)
    return found
