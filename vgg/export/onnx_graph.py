"""A VGG as an ONNX file that answers raw pictures: preprocessing, network and softmax in one graph.

Built node by node, not traced: the graph takes pictures of any size, and needs the `onnx` package
only. Everything is 32-bit; batch norm is folded. The operators are those of opset 18, which
onnxruntime reads since 1.15.
"""

import copy
import json
from typing import TYPE_CHECKING

import numpy as np
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vgg.data.transforms import LONG_STRIP, needed_side
from vgg.errors import UserError
from vgg.export.onnx_nodes import Nodes
from vgg.export.onnx_resize import resized
from vgg.network.config import ModelConfig, Preprocessing
from vgg.network.heads import NORM_FLOOR, ROOT_FLOOR
from vgg.network.summary import count_parameters
from vgg.network.vgg import VGG

if TYPE_CHECKING:
    import onnx

OPSET = 18
IR_VERSION = 8  # of the file format; the one of that opset's time
INPUT, OUTPUT = "picture", "probabilities"
MAX_BYTES = 2**31 - 2**20  # a protocol buffer, which the file is, ends at 2 GB
CLASS_NAMES, JPEG_SIDE, WHITE_16 = "class_names", "jpeg_side", "white"  # keys of the metadata


def build_onnx(model: VGG) -> "onnx.ModelProto":
    """The graph: `picture`, uint8 RGB (height, width, 3), to `probabilities`, float32 (classes,).

    The metadata hold `class_names`, a JSON list in the order of the output, `preprocessing`, what
    the graph does to a picture, and `jpeg_side`: a JPEG may be decoded smaller, as long as its
    shorter side keeps so many pixels; `white` is what is white in grey of 16 bits. `ValueError` for
    a model that can't answer, and for one that does not fit into one file.
    """
    check_exportable(model.config)
    from onnx import ModelProto, TensorProto, checker, helper

    config = model.config
    graph = Nodes()
    pixels = _fitted(graph, INPUT, config.pretrained_cfg)
    x = _normalised(graph, pixels, config.pretrained_cfg)
    if config.flip:
        x = graph.add("Concat", x, _mirrored(graph, x), axis=0)  # (2, 3, size, size)
    logits = _network(graph, model, x)
    if config.flip:
        logits = graph.add("ReduceMean", logits, graph.integers([0]), keepdims=1)
    cooled = graph.add("Div", logits, graph.number(config.temperature))
    probs = graph.add("Softmax", cooled, axis=1)
    graph.add("Squeeze", probs, graph.integers([0]), name=OUTPUT)
    picture = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["height", "width", 3])
    answer = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [config.num_classes])
    graph.proto.input.append(picture)
    graph.proto.output.append(answer)
    # Made by hand: the helper's way copies all weights once more.
    made = ModelProto(ir_version=IR_VERSION, producer_name="VGG Studio", graph=graph.proto)
    made.opset_import.append(helper.make_opsetid("", OPSET))
    helper.set_model_props(made, _notes(config))
    checker.check_model(made)
    return made


def check_exportable(config: ModelConfig) -> None:
    """`ValueError` for a model that has nothing to answer, or is too large for one file."""
    if config.num_classes == 0:
        raise UserError("export.trunk")
    if not config.trained:
        raise UserError("export.untrained")
    if (size := 4 * count_parameters(config)) > MAX_BYTES:
        raise UserError("export.large", gigabytes=size / 1e9)


def _notes(config: ModelConfig) -> dict[str, str]:
    """The file's metadata, text all of it."""
    cfg = config.to_json()["pretrained_cfg"]
    cfg |= {"in_graph": True, "temperature": config.temperature, "flip": config.flip}
    return {
        CLASS_NAMES: json.dumps(list(config.label_names), ensure_ascii=False),
        "preprocessing": json.dumps(cfg),
        JPEG_SIDE: str(needed_side(config.pretrained_cfg)),
        WHITE_16: str(config.pretrained_cfg.white),
        "architecture": f"{config.architecture}, head {config.head}, width {config.width:g}",
    }


# Preprocessing: what `vgg.data.transforms.to_input_square` does, to a picture of unknown size


def _fitted(graph: Nodes, picture: str, cfg: Preprocessing) -> str:
    """uint8 (H, W, 3) → float32 (1, 3, size, size), [0, 255]; what lies outside of the picture is
    the fill colour."""
    planes = graph.add("Transpose", picture, perm=[2, 0, 1])
    planes = graph.add("Unsqueeze", planes, graph.integers([0]))  # (1, 3, H, W)
    if cfg.crop_mode == "center":
        planes = _without_ends(graph, planes)
    sides = graph.add("Shape", planes, start=2)  # (2,): height, width
    target = _target(graph, sides, cfg)
    planes = resized(graph, planes, target, cfg)
    return _cropped_or_padded(graph, planes, target, cfg)


def _without_ends(graph: Nodes, planes: str) -> str:
    """Cut a long strip to its middle, as `transforms` does before it resizes."""
    sides = graph.add("Shape", planes, start=2)
    longest = graph.add("ReduceMin", sides, keepdims=1)
    longest = graph.add("Mul", longest, graph.integers([LONG_STRIP]))
    surplus = graph.add("Max", graph.add("Sub", sides, longest), graph.integers([0]))
    begin = graph.add("Div", surplus, graph.integers([2]))
    end = graph.add("Add", begin, graph.add("Min", sides, longest))
    return graph.add("Slice", planes, begin, end, graph.integers([2, 3]))


def _target(graph: Nodes, sides: str, cfg: Preprocessing) -> str:
    """Height and width to resize to, int64 (2,), from those of the picture."""
    side = needed_side(cfg)
    if cfg.crop_mode == "squash":
        return graph.integers([side, side])
    if cfg.crop_mode == "border":
        longest = graph.add("ReduceMax", sides, keepdims=1)
        scaled = graph.add("Mul", sides, graph.integers([side]))
        return graph.add("Max", _rounded_ratio(graph, scaled, longest), graph.integers([1]))
    shortest = graph.add("ReduceMin", sides, keepdims=1)
    scaled = graph.add("Div", graph.add("Mul", sides, graph.integers([side])), shortest)
    return graph.add("Max", scaled, graph.integers([cfg.size]))


def _rounded_ratio(graph: Nodes, above: str, below: str) -> str:
    """above / below, rounded as Python does it, a half to the even number; in whole numbers."""
    one, two = graph.integers([1]), graph.integers([2])
    twice = graph.add("Add", graph.add("Mul", above, two), below)
    parts = graph.add("Mul", below, two)
    upwards = graph.add("Div", twice, parts)
    is_no_half = graph.add("Min", graph.add("Mod", twice, parts), one)
    is_odd = graph.add("Mod", upwards, two)
    return graph.add("Sub", upwards, graph.add("Mul", is_odd, graph.add("Sub", one, is_no_half)))


def _cropped_or_padded(graph: Nodes, planes: str, target: str, cfg: Preprocessing) -> str:
    """The middle `size` pixels each way; where there are fewer, the fill colour around them."""
    from onnx import TensorProto

    size, zero = graph.integers([cfg.size]), graph.integers([0])
    surplus = graph.add("Max", graph.add("Sub", target, size), zero)
    begin = _rounded_ratio(graph, surplus, graph.integers([2]))  # an odd pixel as in `transforms`
    end = graph.add("Add", begin, size)
    middle = graph.add("Slice", planes, begin, end, graph.integers([2, 3]))
    middle = graph.add("Cast", middle, to=TensorProto.FLOAT)
    if cfg.crop_mode != "border":
        return middle
    missing = graph.add("Max", graph.add("Sub", size, target), zero)
    before = graph.add("Div", missing, graph.integers([2]))
    after = graph.add("Sub", missing, before)
    none = graph.integers([0, 0])
    pads = graph.add("Concat", none, before, none, after, axis=0)
    # Padding knows one number only, so the colour is taken off, 0 put around, and given back.
    fill = np.clip([np.round(255 * value) for value in cfg.mean], 0, 255).astype(np.float32)
    colour = graph.constant(fill.reshape(1, 3, 1, 1))
    padded = graph.add("Pad", graph.add("Sub", middle, colour), pads, mode="constant")
    return graph.add("Add", padded, colour)


def _normalised(graph: Nodes, pixels: str, cfg: Preprocessing) -> str:
    mean, std = (
        graph.constant(np.asarray(values, np.float32).reshape(1, 3, 1, 1))
        for values in (cfg.mean, cfg.std)
    )
    shares = graph.add("Div", pixels, graph.number(255))
    return graph.add("Div", graph.add("Sub", shares, mean), std)


def _mirrored(graph: Nodes, x: str) -> str:
    """Left and right swapped: from the last column to the first."""
    last, before_first, width, back = (
        graph.integers([n]) for n in (-1, np.iinfo(np.int64).min, 3, -1)
    )
    return graph.add("Slice", x, last, before_first, width, back)


# The network


def _network(graph: Nodes, model: VGG, x: str) -> str:
    """(N, 3, size, size) → logits (N, classes)."""
    config = model.config
    head, ends, maps = model.head, model.read_ends, []
    for index, layer in enumerate(model.features):
        if isinstance(layer, nn.Conv2d):
            folded = _folded(layer, model.features[index + 1])
            assert folded.bias is not None
            weights = graph.tensor(folded.weight), graph.tensor(folded.bias)
            x = graph.add("Conv", x, *weights, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        elif isinstance(layer, nn.ReLU):
            x = graph.add("Relu", x)
        elif isinstance(layer, nn.MaxPool2d):
            x = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        if index in ends:
            maps.append(x)
        if index == ends[-1] + head.after_last_pool:
            break
    if head.after_last_pool:
        maps[-1] = x
    parts = []
    for stage, m in zip(head.stages, maps, strict=True):
        side = config.pretrained_cfg.size >> (stage - 1 + (stage == 5 and head.after_last_pool))
        parts.append(graph.add("Flatten", head.onnx(graph, m, side, config.pool)))
    parts = _rooted(graph, parts) if head.rooted else parts
    x = graph.add("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
    for layer in model.classifier:
        if isinstance(layer, nn.Linear):
            weights = graph.tensor(layer.weight), graph.tensor(layer.bias)
            x = graph.add("Gemm", x, *weights, transB=1)
        elif isinstance(layer, nn.ReLU):
            x = graph.add("Relu", x)
    return x


def _folded(conv: nn.Conv2d, following: nn.Module) -> nn.Conv2d:
    """The convolution with the batch norm after it, if that is one, merged into it."""
    if not isinstance(following, nn.BatchNorm2d):
        return conv
    convolution = copy.deepcopy(conv).float().cpu().eval()
    return fuse_conv_bn_eval(convolution, copy.deepcopy(following).float().cpu().eval())


def _rooted(graph: Nodes, means: list[str]) -> list[str]:
    """Each stage's numbers square-rooted and scaled to length 1."""
    scaled = []
    for mean in means:
        root = graph.add("Sqrt", graph.add("Add", mean, graph.number(ROOT_FLOOR)))
        length = graph.add("ReduceL2", root, graph.integers([1]), keepdims=1)
        length = graph.add("Max", length, graph.number(NORM_FLOOR))
        scaled.append(graph.add("Div", root, length))
    return scaled
