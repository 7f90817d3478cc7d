"""A bit per image: what is written is read again, and no damage passes for other images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_core.configuration.correct_images import CorrectImages, packed, unpacked

SETS = st.lists(
    st.builds(
        CorrectImages,
        split=st.sampled_from(["validation", "test"]),
        views=st.sampled_from([1, 10]),
        correct=st.lists(st.booleans(), min_size=1, max_size=40).map(lambda bits: np.array(bits, dtype=bool)),
    ),
    max_size=3,
)
ONE = packed([CorrectImages("test", 1, np.array([True, False, True, True, False, False, False, False, True]))])


def test_the_first_image_is_the_highest_bit() -> None:
    assert ONE == b'{"version":1,"sets":[{"split":"test","views":1,"images":9}]}\n\xb0\x80'


@given(SETS)
def test_what_is_written_is_read_again(sets: list[CorrectImages]) -> None:
    content = packed(sets)
    again = unpacked(content)
    assert [(one.split, one.views, one.correct.tolist()) for one in again] == [
        (one.split, one.views, one.correct.tolist()) for one in sets
    ]
    assert packed(again) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin with a line"),
        (b"{" * 5000 + b"\n", "does not begin with a line"),
        (b"{}\n", "sets: "),
        (ONE.replace(b'"version":1', b'"version":2'), "version: "),
        (ONE.replace(b'"test"', b'"train"'), "split"),
        (ONE[:-1], "has 1 bytes of bits, its first line tells of 2"),
        (ONE + b"\0", "has 3 bytes of bits"),
        (ONE[:-1] + b"\x81", "bits of images beyond the last"),
    ],
)
def test_damage_is_named(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpacked(content)
