"""Other engines for the benchmark: torchvision's network in torch.compile, ONNX Runtime and
OpenVINO, each in the precision that it is best in. What is not installed is left out."""

import logging
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from vgg.device import choose_precision, cpu_cores, precision_name
from vgg.errors import UserError

Network = Callable[[Tensor], Tensor]  # pictures (N, 3, 224, 224) in float32 to logits


def engines(model: nn.Module, batch: int, device: torch.device) -> Iterator[tuple[str, Network]]:
    """(name and precision, network) of each engine that is here, for batches of one size."""
    warnings.simplefilter("ignore")  # converters have much to say, and this process is the bench's
    for needed, build in (
        ((), compiled),
        (("onnxruntime", "onnxscript"), in_onnxruntime),
        (("openvino",), in_openvino),
    ):
        if all(find_spec(name) for name in needed):
            try:
                yield build(model, batch, device)
            except Exception as error:  # an engine that fails has no place in the table
                logging.getLogger(__name__).warning("%s: %s", build.__name__, error)


def compiled(model: nn.Module, batch: int, device: torch.device) -> tuple[str, Network]:
    """`torch.compile`, in this machine's fastest precision; needs a C++ compiler."""
    dtype = choose_precision(device)
    ready = torch.compile(model.to(memory_format=torch.channels_last))

    def network(x: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits: Tensor = ready(x.contiguous(memory_format=torch.channels_last))
            return logits.float()

    network(example(batch).to(device))  # compiles now, and not while the clock runs
    return f"torch.compile {precision_name(dtype)}", network


def in_onnxruntime(model: nn.Module, batch: int, device: torch.device) -> tuple[str, Network]:
    """ONNX Runtime in fp32: its processor kernels have no faster one for convolutions."""
    import onnxruntime

    program = torch.onnx.export(model.cpu(), (example(batch),), dynamo=True, verbose=False)
    assert program is not None
    model.to(device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_cores()
    providers = [p for p in onnxruntime.get_available_providers() if device.type.upper() in p]
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=providers
    )
    name = session.get_inputs()[0].name

    def network(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.cpu().numpy()})[0])

    network(example(batch))
    return "ONNX Runtime fp32" if providers else "ONNX Runtime fp32 on the CPU", network


def in_openvino(model: nn.Module, batch: int, device: torch.device) -> tuple[str, Network]:
    """OpenVINO, which takes bf16 by itself where the processor has it; for processors only."""
    if device.type != "cpu":
        raise UserError("bench.openvino")
    import openvino

    pictures = example(batch)
    converted = openvino.convert_model(model, example_input=pictures, input=pictures.shape)
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": cpu_cores(),
    }
    ready = openvino.compile_model(converted, "CPU", settings)
    precision = ready.get_property("INFERENCE_PRECISION_HINT").to_string()  # f32, bf16 or f16

    def network(x: Tensor) -> Tensor:
        return torch.from_numpy(ready(x.numpy())[0].copy())

    network(pictures)
    return f"OpenVINO {precision}", network


def example(batch: int) -> Tensor:
    """Any pictures."""
    return torch.rand(batch, 3, 224, 224)
