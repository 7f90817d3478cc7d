"""Names of classes are compared as they look: é may be one code point or two (NFC, NFD). Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import normalize

import numpy as np


def look_of(name: str) -> str:
    """Returns a name in the form in which names that look the same are equal (NFC)."""
    return normalize("NFC", name)


def code_points(name: str) -> str:
    """Returns a name as its code points, such as `U+0065 U+0301`: what tells names apart that look the same."""
    return " ".join(f"U+{ord(letter):04X}" for letter in name)


def same_look(names: Sequence[str], others: Sequence[str]) -> bool:
    """Says whether two lists name the same classes, in whatever order."""
    return sorted(map(look_of, names)) == sorted(map(look_of, others))


def numbers_among(names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Returns the numbers that classes have in another order: int64 (N,).

    Args:
        names: N of them, each one of `classes` by its look.
        classes: In that order.
    """
    place = {look_of(name): number for number, name in enumerate(classes)}
    return np.array([place[look_of(name)] for name in names], dtype=np.int64)
