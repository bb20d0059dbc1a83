"""The worker of `vgg.data.decoding`: decodes pictures in a process of its own, within limits."""

import os
import sys
from contextlib import suppress

from vgg.data.decoding import as_message, bands, exactly, receive, send
from vgg.data.depth import greatest_value
from vgg.data.formats import ImageError
from vgg.data.images import decoded, reason, upright_size

MEMORY = 2 * 1024**3  # bytes of addresses
CPU_SECONDS = 10  # for one picture


def serve() -> None:
    """The life of a worker: pictures come on its standard input, answers go to its output."""
    asked = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a decoder prints is no answer
    _limit_memory()
    while True:
        try:
            request = receive(asked)
        except EOFError:
            return
        data = exactly(asked, request["bytes"])
        _limit_time()
        try:
            if request["pixels"]:
                image = decoded(data, request["min_side"], request["max_pixels"], request["white"])
                send(answers, {"numbers": image.size})
                for top, bottom in bands(image.size):
                    answers.write(image.crop((0, top, image.width, bottom)).tobytes())
                answers.flush()
            elif request.get("greatest"):
                high = greatest_value(data)
                send(answers, {"numbers": [] if high is None else [high]})
            else:
                send(answers, {"numbers": upright_size(data, request["max_pixels"])})
        except Exception as error:
            # What broke off in a decoder may have left the memory in disorder: no more pictures.
            hurt = not isinstance(error, ImageError)
            send(answers, as_message(reason(error)) | {"hurt": hurt})


def _limit_memory() -> None:
    if sys.platform == "win32":
        return
    import resource

    for limit, value in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        with suppress(ValueError, OSError):  # macOS has no limit of addresses
            resource.setrlimit(limit, (value, value))


def _limit_time() -> None:
    if sys.platform == "win32":
        return
    import resource

    used = sum(os.times()[:2])
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + 1 + CPU_SECONDS, hard))
