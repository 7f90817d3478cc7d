"""What only a GPU can show; both towers on one, or one tower on each of two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from alexnet_core.commands.sanity import checks
from alexnet_core.configuration.named_networks import network
from alexnet_core.configuration.train_config import TrainConfig, TrainingSpec
from alexnet_core.data.dataset import Dataset
from alexnet_core.model.alexnet import AlexNet, initialise
from alexnet_core.model.draws import draw_key, keep_mask, normals, uniform_bits
from alexnet_core.model.layers import local_response_norm
from alexnet_core.training.checkpointing import Checkpointing
from alexnet_core.training.optimizer import MomentumSGD, parameter_groups
from alexnet_core.training.train import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def placements() -> list[tuple[str, str]]:
    pairs = [("cuda:0", "cuda:0")]
    return [*pairs, ("cuda:0", "cuda:1")] if torch.cuda.device_count() > 1 else pairs


def test_draws_have_the_bits_of_the_cpu() -> None:
    key = draw_key("gpu", 1)
    indices = torch.arange(100_000)
    assert torch.equal(uniform_bits(key, indices.cuda()).cpu(), uniform_bits(key, indices))
    torch.testing.assert_close(normals(key, indices.cuda()).cpu(), normals(key, indices), rtol=1e-12, atol=1e-12)
    masks = [keep_mask(key, 3, torch.Size((40, 500)), 0.5, torch.device(place)).cpu() for place in ("cpu", "cuda")]
    assert torch.equal(*masks)


@pytest.mark.parametrize("name", ["alexnet-paper", "alexnet-145", "cifar-11pct"])
def test_devices_agree_with_the_cpu_in_float32(name: str) -> None:
    spec = network(name)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    images = 50 * torch.randn(4, 3, spec.input_size, spec.input_size)
    reference = AlexNet(spec).eval()
    initialise(reference, 0)
    with torch.inference_mode():
        expected = reference(images)
        for devices in placements():
            model = AlexNet(spec, devices).eval()
            initialise(model, 0)
            logits = model(images.to(devices[0])).cpu()
            assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-5


def test_towers_side_by_side_train_to_the_same_bits() -> None:
    spec = network("alexnet-mini")
    weights = []
    for overlaps in (True, False):
        model = AlexNet(spec, ("cuda:0", "cuda:0")).train()
        model.overlaps_towers = overlaps
        initialise(model, 0)
        optimizer = MomentumSGD(parameter_groups(model, TrainingSpec(epochs=1)))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        for step in range(50):
            images = torch.full((64, 3, spec.input_size, spec.input_size), float(step), device="cuda:0")
            images[:, :, ::2] *= -1
            F.cross_entropy(model(images, (0, step, 0)), torch.arange(64, device="cuda:0") % 10).backward()
            optimizer.step()
            optimizer.zero_grad()
        weights.append([parameter.detach().cpu() for parameter in model.parameters()])
    assert all(torch.equal(side, after) for side, after in zip(*weights, strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_norm_of_one_kernel_equals_the_cpu(layout: torch.memory_format, kind: torch.dtype) -> None:
    x = (4 * torch.randn(3, 48, 9, 9)).to(kind).contiguous(memory_format=layout)
    here, there = x.double().requires_grad_(), x.cuda().requires_grad_()
    upstream = torch.randn(x.shape).to(kind)
    expected = local_response_norm(here, 5, 0.02, 0.75, 1.5)
    expected.backward(upstream.double())
    on_gpu = local_response_norm(there, 5, 0.02, 0.75, 1.5)
    on_gpu.backward(upstream.cuda())
    limit = 2e-6 if kind == torch.float32 else 1e-2
    for ours, theirs in ((on_gpu.detach(), expected.detach()), (there.grad, here.grad)):
        assert ours is not None
        assert theirs is not None
        assert float((ours.cpu() - theirs).abs().max() / theirs.abs().max()) < limit


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_training_runs_in_every_precision(
    config_of: Callable[..., TrainConfig], dataset: Dataset, precision: str, tmp_path: Path
) -> None:
    for devices in placements():
        config, checkpointing = config_of(precision=precision), Checkpointing(tmp_path)
        reports = list(train(config, devices, dataset=dataset, checkpointing=checkpointing))
        assert reports[-1].train.loss < reports[0].train.loss * 1.2


def test_every_check_of_the_sanity_command_passes() -> None:
    for devices in placements():
        assert [check for check in checks(devices) if not check.passed] == []
