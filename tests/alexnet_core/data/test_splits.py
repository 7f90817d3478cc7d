"""Rows of splits: spread evenly over many, and training and validation images drawn anew."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alexnet_core.data.splits import evenly_spaced, held_out, resplit


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


@given(st.lists(st.integers(0, 4), min_size=12, max_size=120), st.integers(0, 9), st.integers(1, 2**31 - 1))
def test_a_split_drawn_anew_has_the_same_images_and_as_many_of_every_class(
    classes: list[int], seed: int, drawing: int
) -> None:
    labels = np.array([*classes, 0, 0], dtype=np.int64)
    before = held_out(labels, seed)
    after = resplit(labels, *before, seed, drawing)
    for ours, theirs in zip(after, before, strict=True):
        assert np.bincount(labels[ours], minlength=5).tolist() == np.bincount(labels[theirs], minlength=5).tolist()
        assert (np.diff(ours) > 0).all()
    assert sorted(np.concatenate(after)) == sorted(np.concatenate(before))
    for same in (resplit(labels, *before, seed, 0), resplit(labels, *resplit(labels, *before, seed, 0), seed, 0)):
        assert [rows.tolist() for rows in same] == [rows.tolist() for rows in before]


def test_every_image_is_as_often_in_the_validation_set_as_another() -> None:
    labels = np.repeat(np.arange(4), 30)
    before = held_out(labels, 0)
    times = np.zeros(len(labels))
    for drawing in range(1, 401):
        times[resplit(labels, *before, 0, drawing)[1]] += 1
    # 每类 30 张留 3 张：每张平均 40 次，二项分布的标准差是 6
    assert times.sum() == 400 * 12
    assert abs(times - 40).max() < 5 * 6
