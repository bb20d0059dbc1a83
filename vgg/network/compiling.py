"""A network as one program of a GPU (torch.compile), where what it saves is worth the wait."""

import logging
import re
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from vgg.network.vgg import VGG

log = logging.getLogger(__name__)

# Compiling takes one to two minutes, and saves up to a third of the time: timm's published figures
# for VGG in half precision, channels last.
TRAINING_SECONDS = 900.0  # of training left, from which on it pays
PICTURES = 200_000  # to predict, from which on it pays

Network = Callable[[Tensor], Tensor]


def compiled(
    model: VGG, example: Tensor, *, learning: bool, dtype: torch.dtype = torch.float32
) -> Network:
    """A function with the answers of `model`, faster for inputs like `example`; those of another
    shape go the plain way, so that nothing is compiled twice. The example must be made as the
    inputs will be, down to its layout and whether it comes from inference mode.

    `learning` takes the model in training mode; `dtype` is then that of mixed precision. Compiles
    now, and leaves the model as it was. Where that is not possible (it takes Triton, or on a CPU a
    C++ compiler) the model itself comes back, and the log says why.
    """
    fast = torch.compile(model, dynamic=False)
    device, shape = example.device.type, example.shape
    kept = [buffer.clone() for buffer in model.buffers()]
    mixed = dtype != torch.float32

    def first_time() -> None:
        with (
            torch.autocast(device, dtype if mixed else None, enabled=mixed),
            torch.inference_mode(not learning),
        ):
            logits = fast(example)
        if learning:
            logits.float().sum().backward()

    try:
        _despite_warnings(first_time)
    except Exception as error:  # compilers fail in many ways, and none of them may end a training
        log.warning("the network can't be compiled here (%s): it runs as it is", _first_line(error))
        return model
    finally:
        model.zero_grad()
        for buffer, before in zip(model.buffers(), kept, strict=True):
            buffer.copy_(before)
    return lambda x: fast(x) if x.shape == shape else model(x)


def _despite_warnings(work: Callable[[], None]) -> None:
    """Do it. A warning that was made an error (`python -W error`) is told from then on, and the
    work begins again: what a library warns of says something, and changes nothing."""
    told: set[tuple[type[Warning], str]] = set()
    while True:
        try:
            return work()
        except Exception as error:
            warning = _warning_behind(error)
            if warning is None or (kind := (type(warning), str(warning))) in told:
                raise
            told.add(kind)
            # Never taken back: `catch_warnings` would change the filters of other threads, too.
            warnings.filterwarnings("default", re.escape(kind[1]), kind[0])


def _warning_behind(error: BaseException | None) -> Warning | None:
    while error is not None:
        if isinstance(error, Warning):
            return error
        error = error.__cause__ or error.__context__
    return None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
