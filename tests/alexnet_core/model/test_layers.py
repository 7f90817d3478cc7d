from __future__ import annotations

import pytest
import torch

from alexnet_core.model.layers import LARGEST_BAND, dropout, local_response_norm

FORMATS = (torch.contiguous_format, torch.channels_last)


def papers_equation(x: torch.Tensor, n: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    """Section 3.3, written out map by map; an even window reaches one further to the left."""
    maps, result = x.shape[1], torch.empty_like(x)
    for i in range(maps):
        low, high = max(0, i - n // 2), min(maps - 1, i - n // 2 + n - 1)
        squares = sum(x[:, j] ** 2 for j in range(low, high + 1))
        result[:, i] = x[:, i] / (k + alpha * squares) ** beta
    return result


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9, 40])
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.3])
def test_lrn_matches_the_papers_equation(size: int, beta: float, memory_format: torch.memory_format) -> None:
    x = torch.randn(2, 7, 3, 4, dtype=torch.float64).contiguous(memory_format=memory_format)
    expected = papers_equation(x, size, 0.3, beta, 2.0)
    torch.testing.assert_close(local_response_norm(x, size, 0.3, beta, 2.0), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("size", [1, 2, 4, 5, 40])
def test_torchs_norm_is_ours_with_alpha_times_n(size: int, memory_format: torch.memory_format) -> None:
    x = (100 * torch.randn(3, 48, 5, 6)).contiguous(memory_format=memory_format)
    theirs = torch.nn.LocalResponseNorm(size, alpha=1e-4 * size, beta=0.75, k=2.0)(x)
    torch.testing.assert_close(local_response_norm(x, size, 1e-4, 0.75, 2.0), theirs)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("across", ["channels", "map"])
@pytest.mark.parametrize("size", [1, 2, 4, 5, 9])
def test_lrn_gradient_is_the_derivative(size: int, across: str, memory_format: torch.memory_format) -> None:
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64).contiguous(memory_format=memory_format)
    x.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: local_response_norm(x, size, 0.4, 0.75, 2.0, across=across),  # type: ignore[arg-type]
        x,
    )


@pytest.mark.parametrize("size", [2, 3, 5])
def test_norm_within_a_map_sums_over_a_square(size: int) -> None:
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    expected = torch.empty_like(x)
    for row in range(6):
        for column in range(5):
            top, left = row - size // 2, column - size // 2
            square = x[:, :, max(0, top) : top + size, max(0, left) : left + size]
            denominator = 1 + 0.2 * (square**2).sum((2, 3))
            expected[:, :, row, column] = x[:, :, row, column] / denominator**0.75
    actual = local_response_norm(x, size, 0.2, 0.75, 1.0, across="map")
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-14)


def test_wide_layers_take_the_other_path_to_the_same_numbers() -> None:
    x = torch.randn(2, LARGEST_BAND + 1, 3, 3).contiguous(memory_format=torch.channels_last)
    wide = local_response_norm(x, 5, 0.1, 0.75, 2.0)[:, : LARGEST_BAND - 5]
    narrow = local_response_norm(x[:, :LARGEST_BAND].contiguous(memory_format=torch.channels_last), 5, 0.1, 0.75, 2.0)
    torch.testing.assert_close(wide, narrow[:, : LARGEST_BAND - 5])


def test_lrn_keeps_channels_last_and_works_on_flat_activations() -> None:
    x = torch.randn(2, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    y = local_response_norm(x, 5, 1e-4, 0.75, 2.0)
    assert y.is_contiguous(memory_format=torch.channels_last)
    flat = torch.randn(4, 9, dtype=torch.float64)
    expected = papers_equation(flat[..., None], 5, 0.1, 0.75, 2.0)[..., 0]
    torch.testing.assert_close(local_response_norm(flat, 5, 0.1, 0.75, 2.0), expected)


def test_lrn_refuses_an_empty_window_and_flat_maps() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        local_response_norm(torch.ones(1, 2, 3, 3), 0, 1e-4, 0.75, 2.0)
    with pytest.raises(ValueError, match="4 dimensions"):
        local_response_norm(torch.ones(1, 2), 5, 1e-4, 0.75, 2.0, across="map")


def test_dropout_is_not_inverted() -> None:
    x = torch.full((50, 40), 3.0)
    trained = dropout(x, 0.5, key=12345, first_row=0)
    assert set(trained.unique().tolist()) == {0.0, 3.0}
    assert torch.equal(dropout(x, 0.25, key=None, first_row=0), x * 0.75)
    assert dropout(x, 0.0, key=12345, first_row=0) is x


@pytest.mark.parametrize("across", ["channels", "map"])
@pytest.mark.parametrize("size", range(1, 10))
def test_lrn_gradient_of_one_channel_and_strided_input_is_the_derivative(size: int, across: str) -> None:
    wide = torch.randn(1, 3, 4, 6, dtype=torch.float64)
    for x in (torch.randn(2, 1, 4, 3, dtype=torch.float64), wide[:, :, :, ::2], wide.transpose(2, 3)):
        assert torch.autograd.gradcheck(
            lambda x: local_response_norm(x, size, 0.4, 0.75, 2.0, across=across),  # type: ignore[arg-type]
            x.detach().requires_grad_(),
        )


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("across", ["channels", "map"])
def test_lrn_of_nothing_zero_and_huge_activations(across: str, memory_format: torch.memory_format) -> None:
    for value in (0.0, 1e15, -1e15):
        x = torch.full((2, 6, 3, 3), value).contiguous(memory_format=memory_format).requires_grad_()
        y = local_response_norm(x, 5, 1e-4, 0.75, 2.0, across=across)  # type: ignore[arg-type]
        y.sum().backward()
        assert x.grad is not None
        assert torch.isfinite(y).all()
        assert torch.isfinite(x.grad).all()
        if value == 0:
            assert not y.any()
            torch.testing.assert_close(x.grad, torch.full_like(x, 2.0**-0.75))
    empty = torch.empty(0, 6, 3, 3).requires_grad_()
    y = local_response_norm(empty, 5, 1e-4, 0.75, 2.0, across=across)  # type: ignore[arg-type]
    y.sum().backward()
    assert y.shape == (0, 6, 3, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_normed_in_float32(dtype: torch.dtype) -> None:
    x = (200 * torch.randn(2, 8, 5, 5)).to(dtype)
    y = local_response_norm(x, 5, 1e-3, 0.75, 2.0)
    assert y.dtype == dtype
    torch.testing.assert_close(y, local_response_norm(x.float(), 5, 1e-3, 0.75, 2.0).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("beta", [0.75, 0.5])
@pytest.mark.parametrize("place", [0, 6, 11])
def test_an_activation_whose_square_overflows_spoils_no_other_window(
    place: int, beta: float, memory_format: torch.memory_format
) -> None:
    x = torch.randn(2, 12, 3, 2)
    x[1, place, 0, 1] = 1e20
    ours = x.clone(memory_format=memory_format).requires_grad_()
    theirs = x.clone().requires_grad_()
    result = local_response_norm(ours, 5, 1e-4, beta, 2.0)
    expected = torch.nn.LocalResponseNorm(5, alpha=5e-4, beta=beta, k=2.0)(theirs)
    torch.testing.assert_close(result, expected)
    result.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
