"""Nodes and constants of an ONNX graph, as they are added one by one."""

from typing import Any

import numpy as np
from torch import Tensor


class Nodes:
    """A graph under way; each node and constant gets a name of its own, which `add` returns."""

    def __init__(self) -> None:
        from onnx import GraphProto

        self.proto = GraphProto(name="vgg")

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node; returns the name of its one output."""
        from onnx import helper

        name = name or f"{kind.lower()}{len(self.proto.node)}"
        self.proto.node.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, values: np.ndarray) -> str:
        """A tensor that belongs to the file; returns its name."""
        from onnx import numpy_helper

        name = f"c{len(self.proto.initializer)}"
        self.proto.initializer.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def tensor(self, values: Tensor) -> str:
        return self.constant(values.detach().float().cpu().numpy())

    def integers(self, values: Any) -> str:
        return self.constant(np.asarray(values, np.int64))

    def number(self, value: float) -> str:
        return self.constant(np.asarray(value, np.float32))
