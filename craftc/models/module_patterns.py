"""Which matrices a list of module names covers: the lists of what is quantised, or is not, name modules in many ways.

`re:` patterns and everything with the signs of a regular expression are matched from the start of the path, entries
with `*`, `?` or `[` are globs for a module or what it is in, and all others are whole words of the path: `mlp.gate.` is
not in `mlp.gate_proj`, `layers.1.` is not in `layers.10`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache

from craftc.errors import BadInput, Unsupported
from craftc.models.expert_matrix import ExpertMatrix

_ROOTS = (
    "model.",
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.language_model.model.",
    "thinker.model.",
    "model.model.",
    "model.text_model.",
    "text_model.",
    "transformer.",
    "backbone.",
    "llm.model.",
    "",
)
"""What may come before `layers` in the path of a text model's layer."""
_ROOT = re.compile("(?:" + "|".join(re.escape(root) for root in _ROOTS if root) + r")(?=layers\.|blocks\.|h\.)")
_ROOT_WORDS = " ".join(_ROOTS)
_WORD = re.compile(r"(?<![\\\w])\w{3,}(?![\w*?{])")
_ANY_ROOT = ("", "model.language_model.", "language_model.model.")
_REGEX_SIGNS = re.compile(r"\\|\^|\$|\(|\||\+|^\.\*")
_GLOB_SIGNS = re.compile(r"[*?\[]")


class ModulePatterns:
    """A list of entries, prepared for many questions."""

    def __init__(self, entries: Iterable[str], field: str) -> None:
        """field: where the entries come from, for messages."""
        self.field = field
        self._words: dict[str, str] = {}
        self._patterns: list[str] = []
        for entry in entries:
            if is_pattern(entry):
                self._patterns.append(entry)
            else:
                self._words.setdefault(without_root(entry.strip(".").removesuffix(".weight")), entry)
        self._starts = {words.partition(".")[0] for words in self._words}

    def entry_for(self, matrix: ExpertMatrix) -> str | None:
        """The entry that covers `matrix`, or None. Raises Unsupported if that depends on what its block is called."""
        found = [self._entry_in(names) for names in matrix.names_by_block]
        entry = next((entry for entry in found if entry is not None), None)
        if entry is None or matrix.block_is_known or None not in found or re.search("expert|moe", entry.lower()):
            return entry
        raise Unsupported(
            f"{self.field}: {entry!r} covers the experts or not, depending on what this model calls its MoE blocks; "
            f"give the size of one expert with --expert-bytes"
        )

    def _entry_in(self, names: tuple[str, ...]) -> str | None:
        for name in names if self._words else ():
            parts = name.split(".")
            for start in (number for number, part in enumerate(parts) if part in self._starts):
                for end in range(start + 1, len(parts) + 1):
                    if (run := ".".join(parts[start:end])) in self._words:
                        return self._words[run]
        return next((entry for entry in self._patterns if any(_fits(entry, name, self.field) for name in names)), None)


def is_pattern(entry: str) -> bool:
    """Whether `entry` is a regular expression or a glob."""
    return entry.startswith("re:") or bool(_REGEX_SIGNS.search(entry) or _GLOB_SIGNS.search(entry))


def is_class_of_experts(entry: str) -> bool:
    """Whether `entry` is no path, but the name of a class that experts may be of."""
    return re.fullmatch(r"[A-Z]\w*", entry) is not None and re.search("expert|moe", entry.lower()) is not None


def without_root(path: str) -> str:
    """`path` from `layers` on, if it is in a text model."""
    root = _ROOT.match(path)
    return path[root.end() :] if root else path


def _fits(entry: str, name: str, field: str) -> bool:
    if "gate_up" in name and "gate_up" not in entry:
        return False  # `.*up_proj` means the up matrix, and not both in one
    if entry.startswith("re:") or _REGEX_SIGNS.search(entry):
        pattern = _regex(entry.removeprefix("re:"), field, entry)
        if any(word not in name and word not in _ROOT_WORDS for word in _needed_words(entry.removeprefix("re:"))):
            return False
        return any(pattern.match(root + path) for path in _experts_and_within(name) for root in _ROOTS)
    head, glob = _glob(entry)
    return name.startswith(head) and any(
        glob.match(root + name) for root in (_ANY_ROOT if entry.startswith("*") else ("",))
    )


def _experts_and_within(name: str) -> tuple[str, ...]:
    """The matrix, its expert, and the experts module."""
    words = name.split(".")
    start = words.index("experts") + 1 if "experts" in words else len(words)
    return tuple(".".join(words[:end]) for end in range(len(words), start - 1, -1))


@lru_cache(maxsize=4096)
def _regex(pattern: str, field: str, entry: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error:
        raise BadInput(f"{field}: {entry!r} is not a pattern") from None


@lru_cache(maxsize=4096)
def _needed_words(pattern: str) -> tuple[str, ...]:
    """Words that every path has which `pattern` matches: a quick no, for lists of hundreds of patterns."""
    return () if re.search(r"[|(\[]", pattern) else tuple(_WORD.findall(pattern))


@lru_cache(maxsize=4096)
def _glob(entry: str) -> tuple[str, re.Pattern[str]]:
    """How every path begins that `entry` fits, and what matches a module that it fits and everything in it."""
    text = without_root(entry).removesuffix(".weight")
    return _GLOB_SIGNS.split(text, maxsplit=1)[0], re.compile(translate(text)[:-2] + r"(?:\.|\Z)")
