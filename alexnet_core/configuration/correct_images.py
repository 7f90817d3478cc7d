"""Which images a trained network got right: a bit per image, for each split and number of views.

In a file they are one line of JSON, such as `{"version":1,"sets":[{"split":"test","views":1,"images":359}]}`, and then
the bits of each set in the order of the split: eight in a byte, the first image in the highest bit, the rest of a last
byte zero.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from alexnet_core.configuration.frozen import Frozen, first_mistake
from alexnet_core.configuration.metrics import Count

_LONGEST_HEADER = 4096


@dataclass(frozen=True, eq=False)
class CorrectImages:
    """Images whose likeliest label was the right one.

    Attributes:
        split: Whose images.
        views: Views of an image whose softmax is averaged.
        correct: bool (N,), in the order of the split.
    """

    split: Literal["validation", "test"]
    views: int
    correct: np.ndarray


def as_text(correct: np.ndarray) -> str:
    """Returns bool (images,) as base64, for a place in JSON: eight in a byte, the first image in the highest bit."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def from_text(text: str, images: int) -> np.ndarray:
    """Reads what `as_text` has written: bool (images,).

    Raises:
        ValueError: It is not that of so many images.
    """
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text, validate=True), np.uint8)).astype(np.bool_)
    if len(bits) != 8 * -(-images // 8) or bits[images:].any():
        raise ValueError(f"its bits are not those of {images} images")
    return bits[:images]


class _Set(Frozen):
    split: Literal["validation", "test"]
    views: Annotated[int, Field(ge=1)]
    images: Annotated[Count, Field(ge=1)]


class _Header(Frozen):
    version: Literal[1] = 1
    sets: tuple[_Set, ...]


def packed(sets: Sequence[CorrectImages]) -> bytes:
    """Returns the content of a file, see above."""
    header = _Header(sets=tuple(_Set(split=one.split, views=one.views, images=len(one.correct)) for one in sets))
    return b"".join((header.model_dump_json().encode(), b"\n", *(np.packbits(one.correct).tobytes() for one in sets)))


def unpacked(content: bytes) -> tuple[CorrectImages, ...]:
    """Reads the content of a file.

    Raises:
        ValueError: It is damaged; says how.
    """
    line, newline, rest = content.partition(b"\n")
    if not newline or len(line) > _LONGEST_HEADER:
        raise ValueError("it does not begin with a line that says what it holds")
    try:
        header = _Header.model_validate_json(line)
    except ValidationError as error:
        raise ValueError(f"its first line says: {first_mistake(error, _Header)}") from error
    sizes = [-(-one.images // 8) for one in header.sets]
    if len(rest) != sum(sizes):
        raise ValueError(f"it has {len(rest)} bytes of bits, its first line tells of {sum(sizes)}")
    found = []
    for one, size in zip(header.sets, sizes, strict=True):
        bits = np.unpackbits(np.frombuffer(rest[:size], np.uint8)).astype(bool)
        rest = rest[size:]
        # 填充位必须是零：同样的内容只有一种写法，哈希才说明问题
        if bits[one.images :].any():
            raise ValueError("it has bits of images beyond the last")
        found.append(CorrectImages(one.split, one.views, bits[: one.images]))
    return tuple(found)
