"""The network as data: a list of named layers.

A specification says everything about a network but its weights; `AlexNet` (model/alexnet.py) builds it on
devices, and the named networks are in named_networks.py. Counts of maps and units are per tower. Nothing here loads
torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from alexnet_core.configuration.frozen import Frozen

LayerName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Reads = Literal["own", "both"]


class Convolution(Frozen):
    """A convolution per tower.

    Attributes:
        maps: Output maps per tower.
        kernel: Side of the square kernel in pixels.
        stride: Step in pixels.
        padding: Zeros added at the left and the top.
        padding_end: Zeros added at the right and the bottom; None means as many as `padding`.
        reads: Whether a tower reads its own maps or those of both (tower 0's first).
        weight_std: Standard deviation of the initial weights (zero-mean Gaussian, paper section 5).
        bias: Initial bias (paper section 5: one in conv2, conv4, conv5, zero elsewhere).
        weight_decay_factor: Weight decay of this layer over that of the training (`layer-params-*.cfg`: wc).
    """

    kind: Literal["convolution"] = "convolution"
    name: LayerName
    maps: int = Field(ge=1, le=8192)
    kernel: int = Field(ge=1, le=64)
    stride: int = Field(default=1, ge=1, le=64)
    padding: int = Field(default=0, ge=0, le=64)
    padding_end: int | None = Field(default=None, ge=0, le=64)
    reads: Reads = "own"
    weight_std: float = Field(gt=0)
    bias: float = 0.0
    weight_decay_factor: float = Field(default=1.0, ge=0)


class LocallyConnected(Frozen):
    """A convolution per tower whose weights differ from place to place (`type=local` of the original code).

    Its weight has the shape (height, width, maps, inputs, kernel, kernel), its bias (height, width, maps), height and
    width being those of the output.

    Attributes:
        maps: Output maps per tower.
        kernel: Side of the square kernel in pixels.
        stride: Step in pixels.
        padding: Zeros added at each side.
        reads: Whether a tower reads its own maps or those of both (tower 0's first).
        weight_std: Standard deviation of the initial weights (zero-mean Gaussian).
        bias: Initial bias.
        weight_decay_factor: See `Convolution`.
    """

    kind: Literal["locally_connected"] = "locally_connected"
    name: LayerName
    maps: int = Field(ge=1, le=8192)
    kernel: int = Field(ge=1, le=64)
    stride: int = Field(default=1, ge=1, le=64)
    padding: int = Field(default=0, ge=0, le=64)
    reads: Reads = "own"
    weight_std: float = Field(gt=0)
    bias: float = 0.0
    weight_decay_factor: float = Field(default=1.0, ge=0)


class FullyConnected(Frozen):
    """A fully connected layer per tower, or one on the last device.

    Attributes:
        units: Outputs per tower; None means as many as the network has classes.
        reads: Whether a tower reads its own activations or those of both (tower 0's first).
        on_last_device: One undivided layer on the last device (fc8) instead of one per tower.
        weight_std: Standard deviation of the initial weights (paper section 5).
        bias: Initial bias (paper section 5: one in the hidden fully connected layers).
        weight_decay_factor: See `Convolution`.
    """

    kind: Literal["fully_connected"] = "fully_connected"
    name: LayerName
    units: int | None = Field(default=None, ge=1, le=65536)
    reads: Reads = "both"
    on_last_device: bool = False
    weight_std: float = Field(gt=0)
    bias: float = 0.0
    weight_decay_factor: float = Field(default=1.0, ge=0)


class Activation(Frozen):
    """An elementwise nonlinearity (paper section 3.1)."""

    kind: Literal["activation"] = "activation"
    name: LayerName
    function: Literal["relu", "tanh"] = "relu"


class ResponseNorm(Frozen):
    """Local response normalisation (paper section 3.3): x / (k + alpha * sum of squares) ** beta.

    Attributes:
        size: Window n in maps (`across="channels"`; paper: 5) or pixels (`across="map"`), clipped at the ends.
        alpha: Factor of the plain sum of squares, as in the paper's equation (paper: 1e-4).
        divide_alpha_by_size: As run (`layers-145.cfg`), alpha is divided by the window's size.
        beta: Exponent (paper: 0.75).
        k: Constant of the denominator (paper: 2).
        across: Over adjacent maps, or over a square of the same map.
        span: Which maps are adjacent: each tower's own, as run (`layers-145.cfg`) and without a message between towers
            where the paper's figure 2 has none; or those of the whole layer, tower 0's first, as the paper's text has
            it ("N is the total number of kernels in the layer").
    """

    kind: Literal["response_norm"] = "response_norm"
    name: LayerName
    size: int = Field(default=5, ge=1, le=512)
    alpha: float = Field(default=1e-4, ge=0)
    divide_alpha_by_size: bool = False
    beta: float = Field(default=0.75, ge=0, le=8)
    k: float = Field(default=2.0, gt=0)
    across: Literal["channels", "map"] = "channels"
    span: Literal["tower", "layer"] = "tower"


class Pooling(Frozen):
    """Pooling over a square window, in the paper of 3 pixels every 2 (section 3.4).

    The output size rounds up (`layer.py` of the original code).
    """

    kind: Literal["pooling"] = "pooling"
    name: LayerName
    size: int = Field(default=3, ge=1, le=64)
    stride: int = Field(default=2, ge=1, le=64)
    function: Literal["max", "average"] = "max"


class Dropout(Frozen):
    """Non-inverted dropout (paper section 4.2): a 0/1 mask in training, a factor in evaluation.

    Attributes:
        rate: Probability of setting an activation to zero (paper: 0.5); evaluation multiplies by 1 - rate.
    """

    kind: Literal["dropout"] = "dropout"
    name: LayerName
    rate: float = Field(default=0.5, ge=0, lt=1)


Weighted = Convolution | LocallyConnected | FullyConnected
Layer = Annotated[Weighted | Activation | ResponseNorm | Pooling | Dropout, Field(discriminator="kind")]


class LayerShape(Frozen):
    """What one layer makes of its input, per tower.

    Attributes:
        inputs: Input maps or features that one tower reads.
        maps: Output maps or features of one tower.
        size: Height and width of the output in pixels; 0 once the activations are flat.
        towers: How many towers hold the layer (1 for fc8).
        parameters: Weights and biases of the layer, all towers.
        multiply_adds: Multiply-adds of one forward pass of one image, all towers.
    """

    name: str
    inputs: int
    maps: int
    size: int
    towers: int
    parameters: int
    multiply_adds: int


class NetworkSpec(Frozen):
    """A network of one or two towers.

    Attributes:
        name: The named network this specification started from.
        towers: Two as in the paper, or one.
        input_size: Height and width of the network's input in pixels (the crop).
        channels: Colour channels of the input.
        classes: Number of classes.
        layers: The layers in the order in which data meets them.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,47}$")]
    towers: Literal[1, 2] = 2
    input_size: int = Field(ge=1, le=4096)
    channels: int = Field(default=3, ge=1, le=16)
    classes: int = Field(ge=2, le=1_000_000)
    layers: tuple[Layer, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_layers(self) -> Self:
        names = [layer.name for layer in self.layers]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"layer names must be unique; repeated: {', '.join(repeated)}")
        last = self.layers[-1]
        if not isinstance(last, FullyConnected) or last.units is not None:
            raise ValueError(
                f"the last layer, {last.name}, must be fully connected with one unit per class (units: null)"
            )
        if self.towers == 2 and not last.on_last_device:
            raise ValueError(f"with two towers the last layer, {last.name}, must have on_last_device: true")
        split = [layer.name for layer in self.layers[:-1] if getattr(layer, "on_last_device", False)]
        if split:
            raise ValueError(f"only the last layer may be on the last device alone, not {', '.join(split)}")
        layer_shapes(self)
        return self

    def layer(self, name: str) -> Layer:
        """Returns the layer called `name`; raises KeyError, naming the layers there are."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"{self.name} has no layer {name}; its layers: {', '.join(x.name for x in self.layers)}")


def layer_shapes(spec: NetworkSpec) -> tuple[LayerShape, ...]:
    """Follows the activations through the network.

    Returns:
        One LayerShape per layer.

    Raises:
        ValueError: If a layer's window does not fit its input, or a spatial layer follows a flat one.
    """
    shapes: list[LayerShape] = []
    maps, size, flat, is_image = spec.channels, spec.input_size, False, True
    for layer in spec.layers:
        parameters = multiply_adds = 0
        # 输入图像复制给两座塔，所以第一层没有“读两边”的加倍
        doubled = 2 if getattr(layer, "reads", "own") == "both" and spec.towers == 2 and not is_image else 1
        inputs, towers = maps * doubled, spec.towers
        if flat and _needs_maps(layer):
            raise ValueError(f"{layer.name} needs maps, but the activations before it are already flat")
        if isinstance(layer, (Convolution, LocallyConnected)):
            size, maps, is_image = convolved_size(layer, size), layer.maps, False
            weights = towers * maps * inputs * layer.kernel**2
            # 局部连接层每个位置各有一组权重
            places = size**2 if isinstance(layer, LocallyConnected) else 1
            parameters = places * (weights + towers * maps)
            multiply_adds = weights * size**2
        elif isinstance(layer, Pooling):
            if layer.size > size:
                raise ValueError(f"{layer.name}: window {layer.size} is larger than its input of {size}")
            size = pooled_size(size, layer.size, layer.stride)
        elif isinstance(layer, FullyConnected):
            inputs *= 1 if flat else size**2
            towers = 1 if layer.on_last_device else spec.towers
            maps = spec.classes if layer.units is None else layer.units
            parameters = towers * maps * (inputs + 1)
            multiply_adds = towers * maps * inputs
            size, flat, is_image = 0, True, False
        shapes.append(
            LayerShape(
                name=layer.name,
                inputs=inputs,
                maps=maps,
                size=size,
                towers=towers,
                parameters=parameters,
                multiply_adds=multiply_adds,
            )
        )
    return tuple(shapes)


def _needs_maps(layer: Layer) -> bool:
    return isinstance(layer, (Convolution, LocallyConnected, Pooling)) or getattr(layer, "across", None) == "map"


def convolved_size(layer: Convolution | LocallyConnected, size: int) -> int:
    """Returns the output side of a convolution over an input of side `size`; raises ValueError if it does not fit."""
    end = getattr(layer, "padding_end", None)
    room = size + layer.padding + (layer.padding if end is None else end) - layer.kernel
    if room < 0:
        raise ValueError(f"{layer.name}: kernel {layer.kernel} is larger than its padded input of {size}")
    return room // layer.stride + 1


def pooled_size(size: int, window: int, stride: int) -> int:
    """Returns the output side of a pooling that rounds up; a last window must start inside the input."""
    output = -(-(size - window) // stride) + 1
    return output - 1 if (output - 1) * stride >= size else output
