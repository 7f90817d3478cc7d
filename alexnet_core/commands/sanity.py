"""The recheck before a week of GPU time: quick independent calculations on the user's own devices.

Each check returns a figure and what it must not exceed. References are calculated without the code under test; where
a property is checked (the same numbers in two precisions, resumed as undisturbed), the core is compared with itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from alexnet_core.configuration.named_networks import network, training_recipe
from alexnet_core.configuration.network_spec import layer_shapes
from alexnet_core.configuration.train_config import DataSpec, TrainConfig
from alexnet_core.data.loading import load_dataset, summarise_data
from alexnet_core.model.alexnet import AlexNet, initialise
from alexnet_core.model.draws import draw_key, keep_mask, permutation, uniform_bits
from alexnet_core.model.layers import local_response_norm
from alexnet_core.process.files import scratch_folder
from alexnet_core.training.checkpoint import latest_checkpoint, read_tensors
from alexnet_core.training.checkpointing import Checkpointing
from alexnet_core.training.optimizer import MomentumSGD
from alexnet_core.training.precision import set_matrix_precision
from alexnet_core.training.train import train

# 论文的网络：各层相加（alexnet-facts 与原始层文件一致）
PARAMETERS = {"alexnet-paper": 60_965_224, "alexnet-145": 60_965_224, "alexnet-half": 59_798_312}
MULTIPLY_ADDS = 724_406_816
# 第一个版本在 CPU 上的抽取结果；任何设备、任何版本都必须相同
DRAWS_DIGEST = "019c6f4652ba3b77"


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: What was compared.
        figure: What was found.
        limit: What it must not exceed.
    """

    name: str
    figure: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the figure is a number within the limit."""
        return self.figure <= self.limit


def checks(devices: Sequence[str]) -> Iterator[Check]:
    """Runs the checks one after another on the devices of the two towers."""
    set_matrix_precision("float32")
    single: Sequence[Callable[[Sequence[str]], Check]] = (
        _parameters,
        _multiply_adds,
        _products,
        _norm,
        _norm_gradient,
        _towers,
        _two_precisions,
        _update,
        _draws_on_device,
        _draws_of_this_version,
        _dropout,
        _signal_as_run,
        _signal_paper,
        _resume,
        _learning,
    )
    for check in single:
        yield check(devices)


def _worst(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference of two tensors of the same shape over the largest value."""
    exact = theirs.detach().double().cpu()
    return float((ours.detach().double().cpu() - exact).abs().max() / exact.abs().max())


def _parameters(devices: Sequence[str]) -> Check:
    wrong = 0
    for name, expected in PARAMETERS.items():
        with torch.device("meta"):
            model = AlexNet(network(name), ("meta", "meta"))
        wrong += abs(sum(parameter.numel() for parameter in model.parameters()) - expected)
    return Check("parameters of alexnet-paper, -145 and -half: difference to the sources", wrong, 0)


def _multiply_adds(devices: Sequence[str]) -> Check:
    total = sum(shape.multiply_adds for shape in layer_shapes(network("alexnet-paper")))
    return Check("multiply-adds of alexnet-paper: difference to 724,406,816", abs(total - MULTIPLY_ADDS), 0)


def _products(devices: Sequence[str]) -> Check:
    left, right = torch.randn(512, 512), torch.randn(512, 512)
    ours = left.to(devices[0]) @ right.to(devices[0])
    return Check(
        "float32 matrix product against float64 (TF32 off)", _worst(ours, left.double() @ right.double()), 1e-5
    )


def _norm(devices: Sequence[str]) -> Check:
    x = 50 * torch.randn(4, 48, 13, 13)
    ours = local_response_norm(x.to(devices[0]), 5, 1e-4, 0.75, 2.0)
    theirs = torch.nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)(x.double())
    return Check("response norm against torch's with alpha times n", _worst(ours, theirs), 1e-5)


def _norm_gradient(devices: Sequence[str]) -> Check:
    x = torch.randn(2, 7, 5, 5, dtype=torch.float64)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    upstream = torch.randn_like(x)
    local_response_norm(ours, 5, 0.2, 0.75, 2.0).backward(upstream)  # type: ignore[no-untyped-call]
    squares = theirs * theirs
    sums = torch.stack([squares[:, max(0, i - 2) : i + 3].sum(dim=1) for i in range(7)], dim=1)
    (theirs / (2.0 + 0.2 * sums) ** 0.75).backward(upstream)  # type: ignore[no-untyped-call]
    assert ours.grad is not None
    assert theirs.grad is not None
    return Check("response norm's gradient against automatic differentiation", _worst(ours.grad, theirs.grad), 1e-12)


def _towers(devices: Sequence[str]) -> Check:
    spec = network("alexnet-mini")
    model = AlexNet(spec, devices)
    initialise(model, 0)
    images = 50 * torch.randn(4, 3, 28, 28)
    with torch.inference_mode():
        ours = model.eval()(images.to(devices[0]))
        theirs = _on_one_device({name: p.detach().double().cpu() for name, p in model.named_parameters()}, images)
    return Check("two towers against grouped convolutions on one device", _worst(ours, theirs), 1e-5)


def _on_one_device(parameters: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """alexnet-mini in evaluation, images (N, 3, H, W) to logits (N, 10), both towers' maps in one float64 tensor."""

    def both(layer: str, kind: str) -> torch.Tensor:
        return torch.cat([parameters[f"{layer}.{tower}.{kind}"] for tower in "01"])

    def norm(x: torch.Tensor) -> torch.Tensor:
        halves = x.chunk(2, dim=1)
        return torch.cat([F.local_response_norm(half, 5, 5e-4, 0.75, 2.0) for half in halves], dim=1)

    x = images.double()
    for layer, padding, groups, normed, pooled in (
        ("conv1", 2, 1, True, True),
        ("conv2", 1, 2, True, True),
        ("conv3", 1, 1, False, False),
        ("conv4", 1, 2, False, False),
        ("conv5", 1, 2, False, True),
    ):
        x = F.relu(F.conv2d(x, both(layer, "weight"), both(layer, "bias"), padding=padding, groups=groups))
        x = norm(x) if normed else x
        x = F.max_pool2d(x, 3, 2, ceil_mode=True) if pooled else x
    x = x.flatten(1)
    for layer in ("fc6", "fc7"):
        x = 0.5 * F.relu(F.linear(x, both(layer, "weight"), both(layer, "bias")))
    return F.linear(x, parameters["fc8.0.weight"], parameters["fc8.0.bias"])


def _two_precisions(devices: Sequence[str]) -> Check:
    spec = network("alexnet-paper")
    model = AlexNet(spec, devices)
    initialise(model, 0)
    images = 50 * torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        ours = model.eval()(images.to(devices[0]))
        exact = AlexNet(spec).double().eval()
        exact.load_state_dict(model.state_dict())
        theirs = exact(images.double())
    return Check("alexnet-paper in float32 on the devices against float64 on the CPU", _worst(ours, theirs), 1e-5)


def _update(devices: Sequence[str]) -> Check:
    weight = torch.nn.Parameter(torch.randn(50, device=devices[0]))
    expected, velocity = weight.detach().double().cpu(), torch.zeros(50, dtype=torch.float64)
    optimizer = MomentumSGD([weight])
    for rate in (0.1, 0.1, 0.01, 0.01):
        gradient = torch.randn(50)
        weight.grad = gradient.to(devices[0])
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        velocity = 0.9 * velocity - 5e-4 * rate * expected - rate * gradient.double()
        expected = expected + velocity
    return Check("four updates through a drop against the paper's rule", _worst(weight, expected), 1e-5)


def _bits(device: str) -> bytes:
    indices = torch.arange(10_000, device=device)
    mask = keep_mask(draw_key("dropout", 1, 2, "fc6", 0), 3, torch.Size((5, 300)), 0.5, torch.device(device))
    crops = uniform_bits(draw_key("views", 1, 2), indices)
    return crops.cpu().numpy().tobytes() + mask.cpu().numpy().tobytes()


def _draws_on_device(devices: Sequence[str]) -> Check:
    return Check("crops and dropout masks: bits unlike the CPU's", float(_bits(devices[0]) != _bits("cpu")), 0)


def draws_digest() -> str:
    """Returns a digest of the draws of every kind on the CPU."""
    model = AlexNet(network("alexnet-mini"))
    initialise(model, 1)
    digest = hashlib.sha256(_bits("cpu") + permutation(1000, "order", 1, 2).tobytes())
    digest.update(model.get_parameter("conv2.1.weight").detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _draws_of_this_version(devices: Sequence[str]) -> Check:
    return Check(f"random draws unlike this version's ({DRAWS_DIGEST})", float(draws_digest() != DRAWS_DIGEST), 0)


def _dropout(devices: Sequence[str]) -> Check:
    count = 1_000_000
    mask = keep_mask(draw_key("dropout", 0, 0, "fc6", 0), 0, torch.Size((count, 1)), 0.5, torch.device(devices[0]))
    deviations = abs(float(mask.double().mean()) - 0.5) / (0.5 / count**0.5)
    return Check("share that dropout keeps: standard deviations from one half", deviations, 4.0)


def _signal(name: str, devices: Sequence[str], expected: float) -> Check:
    """Images with the power spectrum of natural ones, a mean of zero and a spread of 60 grey levels."""
    spec = network(name)
    model = AlexNet(spec, devices)
    initialise(model, 0)
    random = np.random.Generator(np.random.Philox(key=3))
    frequency = np.hypot(np.fft.fftfreq(224)[:, None], np.fft.fftfreq(224)[None, :])
    frequency[0, 0] = 1.0
    noise = random.standard_normal((32, 1, 224, 224)) + 0.3 * random.standard_normal((32, 3, 224, 224))
    images = np.fft.ifft2(np.fft.fft2(noise) / frequency).real
    images *= 60 / images.std()
    with torch.inference_mode():
        logits = model.eval()(torch.from_numpy(images.astype(np.float32)).to(devices[0]))
    ratio = float(logits.std(dim=0).mean()) / expected
    return Check(
        f"{name}: spread of a class's logit over images against {expected}, as a factor", max(ratio, 1 / ratio), 3
    )


def _signal_as_run(devices: Sequence[str]) -> Check:
    return _signal("alexnet-145", devices, 0.05)


def _signal_paper(devices: Sequence[str]) -> Check:
    return _signal("alexnet-paper", devices, 0.004)


def _digits(epochs: int) -> TrainConfig:
    digest = summarise_data("digits").digest
    recipe = training_recipe("alexnet-mini").model_copy(update={"epochs": epochs, "colour_noise": 0.1})
    spec = network("alexnet-mini").model_copy(update={"input_size": 16})
    data = DataSpec(name="digits", source="digits", image_size=16, digest=digest)
    return TrainConfig(network=spec, training=recipe, data=data, seed=0)


def _resume(devices: Sequence[str]) -> Check:
    config = _digits(2)
    dataset = load_dataset(config.data)
    questions = 0

    def stop_in_the_middle() -> bool:
        nonlocal questions
        questions += 1
        return questions > 30

    with scratch_folder("sanity") as folder:
        whole, parts = folder / "whole", folder / "parts"
        for _ in train(config, devices, dataset=dataset, checkpointing=Checkpointing(whole)):
            pass
        first_half, second_half = Checkpointing(parts), Checkpointing(parts, attempt=2)
        for _ in train(config, devices, dataset=dataset, checkpointing=first_half, should_stop=stop_in_the_middle):
            pass
        for _ in train(config, devices, latest_checkpoint(parts), dataset=dataset, checkpointing=second_half):
            pass
        first, second = (read_tensors(path)[0] for path in map(latest_checkpoint, (whole, parts)) if path is not None)
    worst = max(_worst(second[name], first[name]) for name in first)
    # CPU 上逐位相同；GPU 的卷积梯度允许末位不同
    return Check("training stopped within an epoch and resumed: weights", worst, 0 if devices[0] == "cpu" else 1e-4)


def _learning(devices: Sequence[str]) -> Check:
    reports = list(train(_digits(5), devices))
    losses = [report.validation.loss for report in reports if report.validation is not None]
    ratio = losses[-1] / losses[0]
    return Check("five epochs of digits: validation loss over that after the first", ratio, 0.7)
