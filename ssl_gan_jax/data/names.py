"""What people write, and what they mean by it: missing values, classes, parts, the healthy class.

Pure functions of text: spelling, case, blanks and the forms of Unicode never matter.
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from ssl_gan_jax.errors import UserError

_SPLITS = {
    "train": "train training trn trainset trainingset",
    "val": "val valid validate validation dev development tune tuning valset validationset devset",
    "test": "test testing tst holdout heldout testset",
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words.split()}
_MISSING, _HEALTHY = (
    frozenset(words.split())
    for words in (
        """na nan nat null unknown unk missing undefined unspecified notavailable notapplicable
        nolabel nolabels withoutlabel withoutlabels notlabeled notlabelled unsorted unread notread
        notassessed todo tbd pending""",
        """normal normals healthy negative negatives neg control controls benign absent absence none
        nil false uninfected unaffected unremarkable background nofinding nofindings wnl nad gesund
        sano sana sain normale negativo negativa negatif 正常 健康 阴性""",
    )
)
_UNLABELED = {"unlabeled", "unlabelled", "unannotated"}
_DENIALS = {"no", "non", "not", "without", "kein", "keine", "sin", "sans", "senza"}
_QUOTES = "\"'`“”‘’„«»"
# Missing values, unless they are one of two classes and the other one matches.
_PERHAPS = {"-1": r"1", "-": r"\+", "none": r".*\D.*"}
_NUMBER = re.compile(r"([+-]?\d+)(?:[.,]0*)?")


@functools.lru_cache(2**12)
def squeezed(text: str) -> str:
    """Return letters and digits alone, in lower case: "Patient ID" and PATIENT_ID are one."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


def split_of(text: str) -> str | None:
    """Return 'train', 'val' or 'test', '' for a missing value, None for any other word."""
    return "" if is_blank(text) else _SPLIT_OF.get(squeezed(text))


@functools.lru_cache(2**12)
def is_missing(text: str) -> bool:
    """Whether a cell, or the name of a folder, says that a value is not known."""
    word = squeezed(text)
    is_empty = not word and class_key(text) not in ("-", "+")
    return is_empty or word in _MISSING or not _UNLABELED.isdisjoint(_words(text))


def is_blank(text: str) -> bool:
    """Whether a cell of another column than the label's is empty in any of its spellings."""
    return is_missing(text) or class_key(text) in _PERHAPS


def class_key(text: str) -> str:
    """Return what all spellings of one class have in common: Normal, ' NORMAL'; 1, 1.0, "1"."""
    text = unicodedata.normalize("NFKC", text).casefold().strip().strip(_QUOTES).strip()
    if number := _NUMBER.fullmatch(text):
        return str(int(number[1]))
    return " ".join(re.sub(r"[\s_-]+", " ", text).split()) or text


def classes_of(texts: Iterable[str]) -> dict[str, str]:
    """Return for each text the class that it means, '' for a missing value.

    A class goes by its most frequent spelling, of equally frequent ones the first. `-1`, `-` and
    `none` are missing values, unless they are one of two classes: -1 and 1, none and ill.
    """
    counts = Counter(texts)
    keys = {text: "" if is_missing(text) else class_key(text) for text in counts}
    found = set(keys.values()) - {""}
    perhaps = found & set(_PERHAPS)
    two = len(found) == 2 and len(perhaps) == 1
    if not (two and re.fullmatch(_PERHAPS[min(perhaps)], min(found - perhaps))):
        keys = {text: "" if key in perhaps else key for text, key in keys.items()}
    shown: dict[str, str] = {"": ""}
    for text in sorted(counts, key=counts.__getitem__, reverse=True):  # stable: the first of equals
        shown.setdefault(keys[text], text.strip().strip(_QUOTES).strip() or text.strip())
    return {text: shown[key] for text, key in keys.items()}


def findings_in(text: str, others: Iterable[str] = ()) -> list[str]:
    """Return the findings of a cell such as `Mass|Effusion`: two or more, or the cell itself.

    `|` and `;` always divide; commas, `/`, `+` and `&` if every part is one of `others`.
    """
    bare = text.strip().strip("[](){}")
    always, perhaps = (
        [part.strip() for part in re.split(by, bare) if part.strip(f" {_QUOTES}")]
        for by in (r"[|;]", r"[,/+&]")
    )
    if always != [bare]:
        return always or [text]
    known = {class_key(other) for other in others}
    if len(perhaps) > 1 and (text.strip()[0] == "[" or known.issuperset(map(class_key, perhaps))):
        return perhaps
    return [text]


def is_healthy(name: str) -> bool:
    """Whether a class is the absence of a finding, by its name: normal, healthy, no finding, 0."""
    words = set(_words(name))
    is_denied = bool(words & _HEALTHY) != bool(words & _DENIALS)
    return is_denied or class_key(name) in _HEALTHY | {"0", "well", "clear"}


def in_order(
    names: Iterable[str], positive: str = "", given: Sequence[str] | str = ()
) -> tuple[str, ...]:
    """Return the classes as labels 0..K-1 number them.

    Numbers by value, other names by alphabet; of two classes, the healthy one first, since the
    last is the positive one.

    Args:
        names: of the classes that were found.
        positive: the class that comes last, of two.
        given: the names in their order, as a sequence or divided by commas.

    Raises:
        UserError: `positive` is none of them, or they are not two; `given` names one twice.
    """
    if isinstance(given, str):
        given = [name.strip() for name in given.split(",") if name.strip()]
    order = [str(name) for name in given] or sorted(names)
    keys = [class_key(name) for name in order]
    if given and len(set(keys)) < len(keys):
        raise UserError(f"data.options.classes={','.join(order)}: a class is named twice")
    if not given:
        if all(re.fullmatch(r"-?\d+", key) for key in keys):
            order.sort(key=lambda name: int(class_key(name)))
        if len(order) == 2 and _absence_of(*order[::-1]) and not _absence_of(*order):
            order.reverse()
    if positive == "":
        return tuple(order)
    last, shown = class_key(str(positive)), ", ".join(order)
    if last not in keys:
        raise UserError(f"data.options.positive: no {str(positive)!r} among the classes {shown}")
    if len(order) != 2:
        raise UserError(
            f"data.options.positive={positive}: of two classes one is positive, and here are "
            f"{len(order)}: {shown}; leave it out"
        )
    return tuple(sorted(order, key=lambda name: class_key(name) == last))


def _absence_of(name: str, other: str) -> bool:
    """Whether `name` is the healthy class beside `other`; "noncovid" is, beside "covid"."""
    denied = {denial + squeezed(other) for denial in _DENIALS}
    return is_healthy(name) or (not is_healthy(other) and squeezed(name) in denied)


def _words(text: str) -> list[str]:
    """Of "NoFinding", "no_finding" and "No Finding": no, finding; digits are words as well."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", text))
    return re.findall(r"[^\W\d_]+|\d+", text.casefold())
