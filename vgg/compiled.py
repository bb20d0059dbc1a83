"""A network as one program of a GPU (torch.compile), where what it saves is worth the wait."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from vgg.model import VGG

log = logging.getLogger(__name__)

# Compiling takes one to two minutes, and saves up to a third of the time: timm's published figures
# for VGG in half precision, channels last.
TRAINING_SECONDS = 900.0  # of training left, from which on it pays
PICTURES = 200_000  # to predict, from which on it pays

Network = Callable[[Tensor], Tensor]


def compiled(model: VGG, batch: int, dtype: torch.dtype, *, learning: bool) -> Network:
    """A function with the answers of `model`, faster for `batch` pictures at once, of the config's
    size; other batches go the plain way, so that nothing is compiled twice.

    `dtype` is the input's, or with `learning` (the model in training mode) that of mixed precision.
    Compiles now, and leaves the model as it was. Where that is not possible (it takes Triton, or on
    a CPU a C++ compiler) the model itself comes back, and the log says why.
    """
    fast = torch.compile(model)
    device = next(model.parameters()).device
    kept = [buffer.clone() for buffer in model.buffers()]
    mixed = learning and dtype != torch.float32
    x = torch.zeros(batch, *model.config.pretrained_cfg.input_size, device=device)
    x = x.to(torch.float32 if learning else dtype, memory_format=torch.channels_last)
    try:
        with (
            torch.autocast(device.type, dtype if mixed else None, enabled=mixed),
            torch.inference_mode(not learning),
        ):
            logits = fast(x)
        if learning:
            logits.float().sum().backward()
    except Exception as error:  # compilers fail in many ways, and none of them may end a training
        log.warning("the network can't be compiled here (%s): it runs as it is", _first_line(error))
        return model
    finally:
        model.zero_grad()
        for buffer, before in zip(model.buffers(), kept, strict=True):
            buffer.copy_(before)
    return lambda x: fast(x) if len(x) == batch else model(x)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
