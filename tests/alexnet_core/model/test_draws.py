from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from alexnet_core.model.draws import draw_key, generator, keep_mask, normals, permutation, uniform_bits, uniforms

KEY = draw_key("test", 1)


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20))
def test_the_hash_is_the_same_in_plain_integers(key: int, indices: list[int]) -> None:
    expected = []
    for bits in indices:
        for half in (key & 0xFFFFFFFF, key >> 32):
            bits ^= half
            bits ^= bits >> 16
            bits = bits * 0x7FEB352D % 2**32
            bits ^= bits >> 15
            bits = bits * 0x846CA68B % 2**32
            bits ^= bits >> 16
        expected.append(bits)
    assert uniform_bits(key, torch.tensor(indices)).tolist() == expected


def test_keys_tell_numbers_from_text_and_parts_from_their_join() -> None:
    keys = {draw_key("a", 1), draw_key("a", "1"), draw_key("a1"), draw_key(1, "a"), draw_key("a", 1, 0)}
    assert len(keys) == 5


def test_uniforms_fill_every_tenth_of_the_interval_evenly() -> None:
    counts = torch.histc(uniforms(KEY, torch.arange(100_000)), bins=10, min=0, max=1)
    chi_square = float(((counts - 10_000) ** 2 / 10_000).sum())
    assert chi_square < 30


def test_normals_have_the_moments_of_a_gaussian() -> None:
    drawn = normals(KEY, torch.arange(100_000))
    assert abs(float(drawn.mean())) < 0.02
    assert abs(float(drawn.std()) - 1) < 0.02
    assert abs(float((drawn**4).mean()) - 3) < 0.15


def test_neighbouring_keys_give_uncorrelated_draws() -> None:
    drawn = torch.stack([uniforms(draw_key("dropout", 0, step, "fc6", 0), torch.arange(4096)) for step in range(8)])
    correlations = torch.corrcoef(drawn) - torch.eye(8)
    assert float(correlations.abs().max()) < 5 / math.sqrt(4096)


def test_a_shard_of_a_mask_is_a_slice_of_the_whole_mask() -> None:
    device = torch.device("cpu")
    whole = keep_mask(KEY, 0, torch.Size((10, 7)), 0.5, device)
    assert torch.equal(keep_mask(KEY, 4, torch.Size((3, 7)), 0.5, device), whole[4:7])


def test_a_mask_drops_its_rate() -> None:
    kept = keep_mask(KEY, 0, torch.Size((100, 1000)), 0.3, torch.device("cpu")).double().mean()
    assert abs(float(kept) - 0.7) < 0.01


def test_an_order_is_a_permutation_that_depends_on_its_whole_key() -> None:
    first = permutation(100, "order", 0, 0)
    assert sorted(first) == list(range(100))
    assert np.array_equal(first, permutation(100, "order", 0, 0))
    assert not np.array_equal(first, permutation(100, "order", 0, 1))
    assert not np.array_equal(first, permutation(100, "order", 1, 0))


def test_initial_draws_are_pinned_for_ever() -> None:
    drawn = generator("initialisation", 0, "conv1", 0).standard_normal(3)
    assert drawn.tolist() == [-2.975365354786108, 0.8743321366409507, 1.3736944474028971]
