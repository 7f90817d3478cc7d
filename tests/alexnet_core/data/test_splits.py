"""Some images of many: distinct, ascending, from the first to the last, as far apart as whole numbers allow."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alexnet_core.data.splits import evenly_spaced


@given(st.integers(1, 1_300_000), st.integers(1, 600))
def test_evenly_spaced_images_are_as_far_apart_as_they_can_be(images: int, count: int) -> None:
    rows = evenly_spaced(images, count)
    assert (rows.dtype, len(rows), rows[0]) == (np.int64, min(images, count), 0)
    if len(rows) > 1:
        gaps = np.diff(rows)
        assert (rows[-1], gaps.min() >= 1, gaps.max() - gaps.min() <= 1) == (images - 1, True, True)


def test_all_images_are_themselves_and_of_none_there_are_none() -> None:
    np.testing.assert_array_equal(evenly_spaced(1797, 1797), np.arange(1797))
    assert evenly_spaced(0, 8).shape == (0,)
