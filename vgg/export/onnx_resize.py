"""Pillow's way to resize a picture, as ONNX nodes, for pictures of a size that is not known before.

Pillow's `Resample.c`, step by step: each output pixel is a sum of pixels weighted by a filter that
widens as the picture shrinks, first across, then down; weights are whole numbers of 1/2^22, and
both sums are rounded to 8 bits. Done in double precision that is the same to the last bit.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from vgg.network.config import Preprocessing

if TYPE_CHECKING:
    from vgg.export.onnx_nodes import Nodes

EXACT_SIDE = 2048  # pixels; a longer picture would take much time and memory this way
PRECISION = 2.0**22  # of the weights, in Pillow
CUBIC_BEND = -0.5  # Pillow's; ONNX's own default is -0.75
CUBIC_NEAR = (CUBIC_BEND + 2, -(CUBIC_BEND + 3))  # factors of |x|^3 and |x|^2 for |x| < 1


def resized(nodes: "Nodes", planes: str, target: str, cfg: Preprocessing, *, side: int) -> str:
    """uint8 (1, 3, H, W) → uint8 (1, 3, *target), bilinear or bicubic.

    Exact up to `EXACT_SIDE`; longer pictures go through onnxruntime's own Resize, which is within 1
    or 2 grey levels of Pillow's. `side` is the one to which pictures are resized.
    """
    if side > EXACT_SIDE // 2:
        return _by_operator(nodes, planes, target, cfg)
    longest = nodes.add("ReduceMax", nodes.add("Shape", planes, start=2), keepdims=0)
    is_small = nodes.add("LessOrEqual", longest, nodes.constant(np.asarray(EXACT_SIDE, np.int64)))
    exact, other = nodes.branch("exact_"), nodes.branch("other_")
    exact.give(_exactly(exact, planes, target, cfg))
    other.give(_by_operator(other, planes, target, cfg))
    return nodes.add("If", is_small, then_branch=exact.proto, else_branch=other.proto)


def nearest(nodes: "Nodes", planes: str, target: str) -> str:
    """Take the pixels that Pillow's nearest takes: it adds step to step in double precision, and
    so does this."""
    from onnx import TensorProto

    sides = nodes.add("Shape", planes, start=2)
    for place, axis in enumerate((2, 3)):
        before, after = (
            nodes.add("Gather", s, nodes.integers([place]), axis=0) for s in (sides, target)
        )
        step = nodes.add(
            "Div", *(nodes.add("Cast", s, to=TensorProto.DOUBLE) for s in (before, after))
        )
        half = nodes.add("Mul", step, nodes.double([0.5]))
        others = nodes.add("Sub", after, nodes.integers([1]))
        steps = nodes.add("Concat", half, nodes.add("Expand", step, others), axis=0)
        at = nodes.add("CumSum", steps, nodes.constant(np.asarray(0, np.int32)))
        index = nodes.add("Cast", nodes.add("Floor", at), to=TensorProto.INT64)
        index = nodes.add("Min", index, nodes.add("Sub", before, nodes.integers([1])))
        planes = nodes.add("Gather", planes, index, axis=axis)
    return planes


def _by_operator(nodes: "Nodes", planes: str, target: str, cfg: Preprocessing) -> str:
    """Without `exclude_outside`, pixels beyond the edge weigh in, and it is off by 17 levels."""
    is_linear = cfg.interpolation == "bilinear"
    bend: dict[str, Any] = {} if is_linear else {"cubic_coeff_a": CUBIC_BEND}
    return nodes.add(
        "Resize",
        planes,
        "",
        "",
        nodes.add("Concat", nodes.integers([1, 3]), target, axis=0),
        mode="linear" if is_linear else "cubic",
        antialias=1,
        exclude_outside=1,
        coordinate_transformation_mode="half_pixel",
        **bend,
    )


def _exactly(nodes: "Nodes", planes: str, target: str, cfg: Preprocessing) -> str:
    from onnx import TensorProto

    sides = nodes.add("Shape", planes, start=2)
    exact = nodes.add("Cast", planes, to=TensorProto.DOUBLE)
    across = _weights(nodes, sides, target, 1, cfg)  # (W, w)
    exact = _rounded(nodes, nodes.add("MatMul", exact, across))  # (1, 3, H, w)
    down = _weights(nodes, sides, target, 0, cfg)  # (h, H)
    exact = _rounded(nodes, nodes.add("MatMul", down, exact))  # (1, 3, h, w)
    return nodes.add("Cast", exact, to=TensorProto.UINT8)


def _weights(nodes: "Nodes", sides: str, target: str, axis: int, cfg: Preprocessing) -> str:
    """What each pixel of one axis adds to each output, in 1/2^22: (outputs, inputs) for the first
    axis, (inputs, outputs) for the second. Not turned later: older versions of onnxruntime make
    one step of a turn and a product, and have none in double precision."""
    from onnx import TensorProto

    before, after = (
        nodes.add("Cast", nodes.add("Gather", s, nodes.integers(axis)), to=TensorProto.DOUBLE)
        for s in (sides, target)
    )
    zero, half, one = (nodes.double(value) for value in (0.0, 0.5, 1.0))
    scale = nodes.add("Div", before, after)
    stretch = nodes.add("Max", scale, one)
    reach = 1.0 if cfg.interpolation == "bilinear" else 2.0
    support = nodes.add("Mul", stretch, nodes.double(reach))
    over_inputs, over_outputs = nodes.integers([1 - axis]), nodes.integers([axis])
    outputs = nodes.add("Unsqueeze", nodes.add("Range", zero, after, one), over_inputs)
    inputs = nodes.add("Unsqueeze", nodes.add("Range", zero, before, one), over_outputs)
    centre = nodes.add("Mul", nodes.add("Add", outputs, half), scale)
    first = nodes.add("Floor", nodes.add("Add", nodes.add("Sub", centre, support), half))
    end = nodes.add("Floor", nodes.add("Add", nodes.add("Add", centre, support), half))
    inside = nodes.add(
        "And", nodes.add("GreaterOrEqual", inputs, first), nodes.add("Less", inputs, end)
    )
    shrink = nodes.add("Div", one, stretch)
    away = nodes.add("Mul", nodes.add("Add", nodes.add("Sub", inputs, centre), half), shrink)
    curve = _curve(nodes, nodes.add("Abs", away), cfg)
    curve = nodes.add("Mul", curve, nodes.add("Cast", inside, to=TensorProto.DOUBLE))
    total = nodes.add("ReduceSum", curve, over_inputs, keepdims=1)
    share = nodes.add("Mul", nodes.add("Div", curve, total), nodes.double(PRECISION))
    whole = nodes.add("Floor", nodes.add("Add", nodes.add("Abs", share), half))
    return nodes.add("Mul", whole, nodes.add("Sign", share))


def _curve(nodes: "Nodes", x: str, cfg: Preprocessing) -> str:
    """The filter at distances x from the centre, 0 and up."""
    from onnx import TensorProto

    one = nodes.double(1.0)
    if cfg.interpolation == "bilinear":
        return nodes.add("Max", nodes.add("Sub", one, x), nodes.double(0.0))
    cube, square = (nodes.double(factor) for factor in CUBIC_NEAR)
    near = nodes.add("Add", nodes.add("Mul", x, cube), square)
    near = nodes.add("Add", nodes.add("Mul", nodes.add("Mul", near, x), x), one)
    far = nodes.add("Sub", x, nodes.double(5.0))
    far = nodes.add("Add", nodes.add("Mul", far, x), nodes.double(8.0))
    far = nodes.add("Sub", nodes.add("Mul", far, x), nodes.double(4.0))
    far = nodes.add("Mul", far, nodes.double(CUBIC_BEND))
    is_far, is_near = (
        nodes.add("Cast", nodes.add("Less", x, nodes.double(limit)), to=TensorProto.DOUBLE)
        for limit in (2.0, 1.0)
    )
    is_far = nodes.add("Sub", is_far, is_near)
    return nodes.add("Add", nodes.add("Mul", near, is_near), nodes.add("Mul", far, is_far))


def _rounded(nodes: "Nodes", sums: str) -> str:
    """Sums in 1/2^22 → grey levels 0 to 255, a half upwards."""
    shares = nodes.add(
        "Add", nodes.add("Mul", sums, nodes.double(1 / PRECISION)), nodes.double(0.5)
    )
    limits = nodes.double(0.0), nodes.double(255.0)
    return nodes.add("Min", nodes.add("Max", nodes.add("Floor", shares), limits[0]), limits[1])
