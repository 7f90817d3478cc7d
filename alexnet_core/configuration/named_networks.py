"""The named networks, and how each was trained: data, made of the classes of `specification` and `configuration`.

Sources: the paper (sections 3 and 5), and the layer files of the original code released in 2025
(`layers/layers-145.cfg`, `layers-145-half.cfg`, `layers-cifar/*.cfg` and their `layer-params-*.cfg`). Nothing here
loads torch.
"""

from __future__ import annotations

from typing import Any

from alexnet_core.configuration.network_spec import (
    Activation,
    Convolution,
    Dropout,
    FullyConnected,
    Layer,
    LocallyConnected,
    NetworkSpec,
    Pooling,
    ResponseNorm,
)
from alexnet_core.configuration.train_config import (
    PlateauSchedule,
    RateChange,
    ReplaySchedule,
    StepSchedule,
    TrainingSpec,
)

Block = tuple[Layer, ...]


def network(name: str) -> NetworkSpec:
    """Returns the named network.

    Args:
        name: One of `network_names()`.

    Raises:
        ValueError: If there is no network of that name; the message lists those there are.
    """
    if name not in _NETWORKS:
        raise ValueError(f"there is no network {name!r}; networks: {', '.join(network_names())}")
    return _NETWORKS[name]


def network_names() -> tuple[str, ...]:
    """Returns the names of the networks, in alphabetical order."""
    return tuple(sorted(_NETWORKS))


def recipe_names() -> tuple[str, ...]:
    """Returns the names of the training recipes, in alphabetical order: one of each network, and further ones."""
    return tuple(sorted(_RECIPES))


def training_recipe(name: str) -> TrainingSpec:
    """Returns how a network was trained by its source, on the data it was made for.

    `alexnet-145` is the run of 2010's images behind the paper's test errors, `alexnet-145-2012` the same network's on
    2012's. Their logs (at the end of `layer-params-145-2010.cfg` and `layer-params-145.cfg`) tell when the learning
    rate of the weights fell, and nothing of the biases': both begin with 0.02, twice the weights' 0.01; the file of
    2012 ends with 0.02 still, that of 2010 with 0.002. When they fell is not recorded. We assume with the weights'
    first drop, at epoch 23, for so it was in the one training whose stages are all on file
    (`layer-params-120-4gpu*.cfg`: 0.02 beside weights of 0.01, then 0.002 beside 0.001, 0.0001 and 0.00001).

    Args:
        name: One of `recipe_names()`.

    Raises:
        ValueError: If there is no recipe of that name; the message lists those there are.
    """
    if name not in _RECIPES:
        raise ValueError(f"there is no recipe {name!r}; recipes: {', '.join(recipe_names())}")
    return _RECIPES[name]


def network_of_recipe(name: str) -> NetworkSpec:
    """Returns the network that a recipe trains.

    Raises:
        ValueError: If there is no recipe of that name.
    """
    training_recipe(name)
    return network(_NETWORK_OF_RECIPE.get(name, name))


def prepared_size(spec: NetworkSpec) -> int:
    """Returns the size in pixels at which images are prepared for a network that takes random crops of them.

    256 for the paper's crops of 224 (section 2), 32 for the 24 of the CIFAR-10 nets; other networks take whole images.
    """
    return _PREPARED_SIZES.get(spec.input_size, spec.input_size)


def _convolution(number: int, maps: int, kernel: int, weight_std: float, **fields: Any) -> Convolution:
    """`conv<number>`, padded to keep the size unless the fields say otherwise."""
    half = kernel // 2
    fields = {"padding": half, "padding_end": half if number == 1 else None} | fields
    return Convolution(name=f"conv{number}", maps=maps, kernel=kernel, weight_std=weight_std, **fields)


def _relu(number: int) -> Activation:
    return Activation(name=f"relu{number}")


def _pool(number: int) -> Pooling:
    return Pooling(name=f"pool{number}")


def _convolutions(
    maps: tuple[int, int, int, int, int],
    kernels: tuple[int, int],
    first_stride: int,
    first_padding: tuple[int, int],
    weight_stds: tuple[float, float, float, float, float],
) -> tuple[Convolution, ...]:
    """The five convolutions of the paper (section 3.5): kernels, who reads whom, biases of one in 2, 4 and 5."""
    start, end = first_padding
    return (
        _convolution(1, maps[0], kernels[0], weight_stds[0], stride=first_stride, padding=start, padding_end=end),
        # 偏置为一：ReLU 一开始就有正的输入，早期学得更快（论文第 5 节）
        _convolution(2, maps[1], kernels[1], weight_stds[1], bias=1.0),
        # 整个卷积部分只有这一层读两座塔
        _convolution(3, maps[2], 3, weight_stds[2], reads="both"),
        _convolution(4, maps[3], 3, weight_stds[3], bias=1.0),
        _convolution(5, maps[4], 3, weight_stds[4], bias=1.0),
    )


def _classifier(hidden_units: int, weight_stds: tuple[float, float, float]) -> Block:
    """fc6, fc7 and fc8 with dropout after the first two (paper sections 3.5 and 4.2)."""
    hidden: list[Layer] = []
    for number, weight_std in zip((6, 7), weight_stds, strict=False):
        hidden += [
            FullyConnected(name=f"fc{number}", units=hidden_units, weight_std=weight_std, bias=1.0),
            _relu(number),
            Dropout(name=f"dropout{number}"),
        ]
    return (*hidden, FullyConnected(name="fc8", on_last_device=True, weight_std=weight_stds[2]))


def _paper_order(convolutions: tuple[Convolution, ...], classifier: Block) -> Block:
    """The paper's order (section 3.5): ReLU, then response norm, then pooling."""
    conv1, conv2, conv3, conv4, conv5 = convolutions
    # 论文：归一化看到的是 ReLU 之后的值
    return (
        *(conv1, _relu(1), ResponseNorm(name="lrn1"), _pool(1)),
        *(conv2, _relu(2), ResponseNorm(name="lrn2"), _pool(2)),
        *(conv3, _relu(3)),
        *(conv4, _relu(4)),
        *(conv5, _relu(5), _pool(5)),
        *classifier,
    )


def _order_as_run(convolutions: tuple[Convolution, ...], classifier: Block) -> Block:
    """The order of `layers-145.cfg`: ReLU after pool1 and pool5, and a norm within each map before pool2."""
    conv1, conv2, conv3, conv4, conv5 = convolutions
    # 实际运行的：lrn1 归一化线性输出；ReLU 与最大池化可交换，放在池化之后少算
    return (
        *(conv1, ResponseNorm(name="lrn1", divide_alpha_by_size=True), _pool(1), _relu(1)),
        *(conv2, _relu(2), ResponseNorm(name="lrn2", divide_alpha_by_size=True)),
        # [cnorm2a]：论文没有提到的一层，scale 0.001 除以 5*5
        ResponseNorm(name="map_norm2", across="map", size=5, alpha=1e-3, divide_alpha_by_size=True, k=1.0),
        _pool(2),
        *(conv3, _relu(3)),
        *(conv4, _relu(4)),
        *(conv5, _pool(5), _relu(5)),
        *classifier,
    )


def _average_pool(number: int) -> Pooling:
    return Pooling(name=f"pool{number}", function="average")


def _local(number: int, maps: int) -> Block:
    local = LocallyConnected(name=f"local{number}", maps=maps, kernel=3, padding=1, weight_std=0.04)
    return (local, _relu(number))


def _cifar_18pct() -> Block:
    """`layers-cifar/layers-18pct.cfg`; decay 0.004 in the convolutions and 1 in the last layer, 250 times as much."""
    norms = [
        ResponseNorm(name=f"lrn{number}", across="map", size=3, alpha=5e-5, divide_alpha_by_size=True, k=1.0)
        for number in (1, 2)
    ]
    return (
        *(_convolution(1, 32, 5, 1e-4), _pool(1), _relu(1), norms[0]),
        *(_convolution(2, 32, 5, 0.01), _relu(2), _average_pool(2), norms[1]),
        *(_convolution(3, 64, 5, 0.01), _relu(3), _average_pool(3)),
        FullyConnected(name="fc10", on_last_device=True, weight_std=0.01, weight_decay_factor=250.0),
    )


def _cifar_mini() -> Block:
    """The four layers of the 18 % net at half its width, without norms.

    Weights start at one over the root of their number of inputs (LeCun, Bottou, Orr, Mueller 1998, section 4.6), so
    that neither ReLU nor tanh begins with a plateau; conv1's inputs are pixels of 0 to 255, so its weights are 1/255 of
    that.
    """
    return (
        *(_convolution(1, 16, 5, 0.00045), _pool(1), _relu(1)),
        *(_convolution(2, 16, 5, 0.05), _relu(2), _average_pool(2)),
        *(_convolution(3, 32, 5, 0.05), _relu(3), _average_pool(3)),
        FullyConnected(name="fc10", on_last_device=True, weight_std=0.059),
    )


def _cifar_local(*, norms: bool) -> Block:
    """`layers-conv-local-13pct.cfg`, and the 11 % net of the same code: norms, a wider local3, more decay in fc10."""

    def norm(number: int) -> Block:
        if not norms:
            return ()
        return (ResponseNorm(name=f"lrn{number}", size=9, alpha=1e-3, divide_alpha_by_size=True, k=1.0),)

    return (
        *(_convolution(1, 64, 5, 1e-4, weight_decay_factor=0.0), _relu(1), _pool(1), *norm(1)),
        *(_convolution(2, 64, 5, 0.01, weight_decay_factor=0.0), _relu(2), *norm(2), _pool(2)),
        *_local(3, 64 if norms else 32),
        *_local(4, 32),
        FullyConnected(name="fc10", on_last_device=True, weight_std=0.01, weight_decay_factor=2.5 if norms else 1.0),
    )


# 论文第 2 节 256、4.1 节 224；CIFAR 网络从 32 裁出 24（原始代码的 --crop-border=4）
_PREPARED_SIZES = {224: 256, 28: 32, 24: 32}
# 论文第 5 节
_PAPER_STDS = (0.01,) * 5
# layers-145.cfg 的 initW
_STDS_AS_RUN = (0.01, 0.01, 0.03, 0.03, 0.03)
# 论文图 2：每块 GPU 的卷积核数
_TWO_TOWERS = (48, 128, 192, 192, 128)
_NETWORKS: dict[str, NetworkSpec] = {
    # 论文 3.5 节与图 2；224 像素在右侧和底部各补 3（原始代码），得到 55x55
    "alexnet-paper": NetworkSpec(
        name="alexnet-paper",
        input_size=224,
        classes=1000,
        layers=_paper_order(
            _convolutions(_TWO_TOWERS, (11, 5), 4, (0, 3), _PAPER_STDS),
            _classifier(2048, (0.01, 0.01, 0.01)),
        ),
    ),
    # layers-145.cfg：发表的数字出自这个网络
    "alexnet-145": NetworkSpec(
        name="alexnet-145",
        input_size=224,
        classes=1000,
        layers=_order_as_run(
            _convolutions(_TWO_TOWERS, (11, 5), 4, (0, 3), _STDS_AS_RUN),
            _classifier(2048, (0.01, 0.01, 0.01)),
        ),
    ),
    # 论文 3.2 节的单 GPU 对照：卷积核减半，conv5 与全连接层不减（layers-145-half.cfg）
    "alexnet-half": NetworkSpec(
        name="alexnet-half",
        towers=1,
        input_size=224,
        classes=1000,
        layers=_paper_order(
            _convolutions((48, 128, 192, 192, 256), (11, 5), 4, (0, 3), _PAPER_STDS),
            _classifier(4096, (0.01, 0.01, 0.01)),
        ),
    ),
    # 同样的拓扑，用于 16 至 32 像素的图；标准差取原始运行值（conv3-5 为 0.03，其余 0.01）
    # 乘以 sqrt(原 fan-in / 此处 fan-in)，使信号大小不变
    "alexnet-mini": NetworkSpec(
        name="alexnet-mini",
        input_size=28,
        classes=10,
        layers=_paper_order(
            _convolutions((8, 16, 32, 32, 32), (5, 3), 1, (2, 2), (0.022, 0.041, 0.085, 0.074, 0.074)),
            _classifier(128, (0.057, 0.04, 0.04)),
        ),
    ),
    "cifar-18pct": NetworkSpec(name="cifar-18pct", towers=1, input_size=32, classes=10, layers=_cifar_18pct()),
    # 论文图 1 的四层网络没有公布；这里取同层数的小网络，一个 CPU 核心也训得动
    "cifar-mini": NetworkSpec(name="cifar-mini", towers=1, input_size=24, classes=10, layers=_cifar_mini()),
    "cifar-13pct": NetworkSpec(
        name="cifar-13pct", towers=1, input_size=24, classes=10, layers=_cifar_local(norms=False)
    ),
    "cifar-11pct": NetworkSpec(
        name="cifar-11pct", towers=1, input_size=24, classes=10, layers=_cifar_local(norms=True)
    ),
}
_PAPER_RECIPE = TrainingSpec(
    # 论文第 5 节：约 90 轮，批 128，学习率 0.01，动量 0.9，衰减 0.0005；4.1 节：颜色噪声 0.1
    epochs=90,
    batch_size=128,
    learning_rate=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    schedule=PlateauSchedule(patience=5, factor=0.1, drops=3),
    colour_noise=0.1,
)


def _recipe_as_run(*, epochs: int, changes: tuple[RateChange, ...]) -> TrainingSpec:
    """A log at the end of `layer-params-145*.cfg`, replayed; its epochs count from 1."""
    return _PAPER_RECIPE.model_copy(
        update={
            "epochs": epochs,
            "bias_learning_rate_factor": 2.0,
            "decays_biases": False,
            "images_per_crop": 32,
            "divides_by_colour_noise": True,
            "mean_follows_crop": False,
            "schedule": ReplaySchedule(changes=changes, biases_follow=False),
        }
    )


# layer-params-145-2010.cfg：文件末尾 epsB 是 0.002；何时降的没有记录，这里假定与权重的第一次一起
_RECIPE_2010 = _recipe_as_run(
    epochs=93,
    changes=(
        RateChange(epoch=23, learning_rate=1e-3, bias_learning_rate=2e-3),
        RateChange(epoch=51, learning_rate=1e-4),
        RateChange(epoch=68, layers=("conv1",), learning_rate=1e-5, colour_noise=0.0),
        RateChange(epoch=72, layers=("conv1",), learning_rate=0.0),
        RateChange(epoch=78, learning_rate=1e-5),
    ),
)
# layer-params-145.cfg：记录只说 set epsw，偏置的 epsB 到最后仍是 0.02
_RECIPE_2012 = _recipe_as_run(
    epochs=91,
    changes=(
        RateChange(epoch=25, learning_rate=1e-3),
        RateChange(epoch=51, learning_rate=1e-4),
        RateChange(epoch=67, layers=("conv1",), learning_rate=1e-5, colour_noise=0.0),
        RateChange(epoch=72, layers=("conv1",), learning_rate=0.0),
        RateChange(epoch=79, learning_rate=1e-5),
    ),
)
_CIFAR_RECIPE = TrainingSpec(
    # layer-params-18pct.cfg：120 轮，除以 10 再训 10 轮，再除以 10 训 10 轮
    epochs=140,
    batch_size=128,
    learning_rate=0.001,
    momentum=0.9,
    weight_decay=0.004,
    bias_learning_rate_factor=2.0,
    decays_biases=False,
    random_crops=False,
    flips=False,
    schedule=ReplaySchedule(
        changes=(RateChange(epoch=121, learning_rate=1e-4), RateChange(epoch=131, learning_rate=1e-5))
    ),
)
# 图 1：没有任何正则化，学习率不变
_UNREGULARISED = _CIFAR_RECIPE.model_copy(
    update={"epochs": 40, "batch_size": 16, "learning_rate": 4e-4, "weight_decay": 0.0, "schedule": StepSchedule()}
)
_CIFAR_CROPS_RECIPE = _CIFAR_RECIPE.model_copy(update={"random_crops": True, "flips": True})
_RECIPES: dict[str, TrainingSpec] = {
    "alexnet-paper": _PAPER_RECIPE,
    "alexnet-half": _PAPER_RECIPE,
    "alexnet-145": _RECIPE_2010,
    "alexnet-145-2012": _RECIPE_2012,
    # 我们自己在 digits 验证集上选的
    "alexnet-mini": TrainingSpec(
        epochs=11, batch_size=48, learning_rate=0.008, flips=False, schedule=StepSchedule(at=(0.75,))
    ),
    "cifar-18pct": _CIFAR_RECIPE,
    "cifar-mini": _UNREGULARISED,
    # 13 % 与 11 % 的轮数在公布的代码里没有，沿用 18 % 的
    "cifar-13pct": _CIFAR_CROPS_RECIPE,
    "cifar-11pct": _CIFAR_CROPS_RECIPE,
}
# 配方比网络多：同一个网络有两次有记录的训练
_NETWORK_OF_RECIPE = {"alexnet-145-2012": "alexnet-145"}
