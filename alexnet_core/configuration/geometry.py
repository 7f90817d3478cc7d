"""What an edit of a network does to the sizes of its maps and its parameters, in words."""

from __future__ import annotations

from collections.abc import Mapping

from alexnet_core.configuration.network_spec import (
    Convolution,
    LayerShape,
    LocallyConnected,
    NetworkSpec,
    convolved_size,
    layer_shapes,
)
from alexnet_core.configuration.wording import counted


def geometry_change(spec: NetworkSpec, before: NetworkSpec) -> str:
    """Says which layer's output has another size than before, and what becomes of the parameters; else nothing.

    `conv2's output shrinks by 2 pixels (9 to 7), 148,138 parameters (-23 %); padding 2 would keep it`. A layer that is
    left out or a channel more is what somebody asked for: a map's size is what a kernel's edit changes unsaid.

    Args:
        spec: The network.
        before: The network that it is compared with.
    """
    shapes, earlier = layer_shapes(spec), {shape.name: shape for shape in layer_shapes(before)}
    first = next((shape for shape in shapes if shape.name in earlier and shape.size != earlier[shape.name].size), None)
    if first is None or spec.input_size != before.input_size:
        return ""
    was = earlier[first.name].size
    verb = "shrinks" if first.size < was else "grows"
    total, total_before = (sum(shape.parameters for shape in all_) for all_ in (shapes, earlier.values()))
    share = f" ({100 * (total / total_before - 1):+.0f} %)" if total_before else ""
    return (
        f"{first.name}'s output {verb} by {counted(abs(first.size - was), 'pixel')} ({was} to {first.size}), "
        f"{total:,} parameters{share}{_remedy(spec, {shape.name: shape for shape in shapes}, first.name, was)}"
    )


def _remedy(spec: NetworkSpec, shapes: Mapping[str, LayerShape], name: str, was: int) -> str:
    """The padding with which a convolution's output would have the size that it had."""
    layer = spec.layer(name)
    if not isinstance(layer, (Convolution, LocallyConnected)):
        return ""
    place = [one.name for one in spec.layers].index(name)
    size = shapes[spec.layers[place - 1].name].size if place else spec.input_size
    for padding in range(layer.kernel):
        wider = layer.model_copy(update={"padding": padding})
        try:
            if convolved_size(wider, size) == was:
                return f"; padding {padding} would keep it"
        except ValueError:
            continue
    return ""
