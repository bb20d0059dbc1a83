"""Pillow's way to resize a picture, as ONNX nodes, for pictures of a size that is not known before.

Without branches and without double precision, which browsers and other engines do not have.
"""

from vgg.export.onnx_nodes import Nodes
from vgg.network.config import Preprocessing

HALF_BITS = 2**11  # Pillow's weights are whole numbers of 1/2^22: twice so many bits
CUBIC_BEND = -0.5  # Pillow's; ONNX's own default is -0.75


def resized(nodes: Nodes, planes: str, target: str, cfg: Preprocessing) -> str:
    """uint8 (1, 3, H, W) → (1, 3, *target), whole numbers from 0 to 255.

    Exact where it is bilinear, as in Pillow's `Resample.c`. onnxruntime's own Resize, which does
    the bicubic one, is off by up to 2 in one pixel of a thousand (bilinear by 1 in up to one of
    eight, which is too much). Of the nearest, one pixel of 500 is that beside Pillow's.
    """
    if cfg.interpolation == "bicubic":
        return _bicubic(nodes, planes, target)
    for place in (1, 0):  # across, then down
        sides = nodes.add("Shape", planes, start=2)
        before, after = (nodes.add("Gather", s, nodes.integers(place)) for s in (sides, target))
        if cfg.interpolation == "nearest":
            planes = _nearest(nodes, planes, before, after, axis=2 + place)
        else:
            planes = _bilinear(nodes, planes, before, after, place)
    return planes


def _odd(nodes: Nodes, count: str) -> str:
    """1, 3, 5, …: the middles of so many pixels, in halves of one."""
    zero, one, two = (nodes.integers(number) for number in (0, 1, 2))
    return nodes.add("Add", nodes.add("Mul", nodes.add("Range", zero, count, one), two), one)


def _nearest(nodes: Nodes, planes: str, before: str, after: str, axis: int) -> str:
    """Take the pixels in which the middles of the new ones lie."""
    middles = nodes.add("Mul", _odd(nodes, after), before)
    index = nodes.add("Div", middles, nodes.add("Mul", after, nodes.integers(2)))
    return nodes.add("Gather", planes, index, axis=axis)


def _bilinear(nodes: Nodes, planes: str, before: str, after: str, place: int) -> str:
    """Each new pixel is a sum of pixels; their weights fall evenly with the distance, and reach
    farther as the picture shrinks. The sum is rounded.

    Weights are split in two, so that whole numbers of 24 bits, which float32 has, are enough.
    """
    from onnx import TensorProto

    over_inputs, over_outputs = nodes.integers([1 - place]), nodes.integers([place])
    half, two = nodes.integers(HALF_BITS), nodes.integers(2)
    # All distances in 1 / (2 * after) of a pixel.
    inputs = nodes.add("Unsqueeze", nodes.add("Mul", _odd(nodes, before), after), over_outputs)
    outputs = nodes.add("Unsqueeze", nodes.add("Mul", _odd(nodes, after), before), over_inputs)
    reach = nodes.add("Mul", nodes.add("Max", before, after), two)
    away = nodes.add("Abs", nodes.add("Sub", inputs, outputs))
    near = nodes.add("Max", nodes.add("Sub", reach, away), nodes.integers(0))
    total = nodes.add("ReduceSum", near, over_inputs, keepdims=1)
    scaled = nodes.add("Mul", near, half)
    high = nodes.add("Div", scaled, total)
    rest = nodes.add("Mul", nodes.add("Mod", scaled, total), nodes.add("Mul", half, two))
    low = nodes.add("Div", nodes.add("Add", rest, total), nodes.add("Mul", total, two))
    pixels, sums = nodes.add("Cast", planes, to=TensorProto.FLOAT), []
    for part in (high, low):
        weights = nodes.add("Cast", part, to=TensorProto.FLOAT)
        pair = (pixels, weights) if place else (weights, pixels)
        sums.append(nodes.add("Cast", nodes.add("MatMul", *pair), to=TensorProto.INT64))
    summed = nodes.add("Add", nodes.add("Mul", sums[0], half), sums[1])
    unit = nodes.integers(HALF_BITS**2)
    return nodes.add("Div", nodes.add("Add", summed, nodes.integers(HALF_BITS**2 // 2)), unit)


def _bicubic(nodes: Nodes, planes: str, target: str) -> str:
    return nodes.add(
        "Resize",
        planes,
        "",
        "",
        nodes.add("Concat", nodes.integers([1, 3]), target, axis=0),
        mode="cubic",
        cubic_coeff_a=CUBIC_BEND,
        antialias=1,
        exclude_outside=1,  # else pixels beyond the edge weigh in, and it is off by 17 levels
        coordinate_transformation_mode="half_pixel",
    )
