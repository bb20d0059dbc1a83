"""Strangers' pictures, decoded in processes of their own: what a decoder can't bear ends one of
those, and not the page.

In this process stay plain JPEGs and PNGs of usual size, of which almost all pictures are, and whose
decoders meet hostile files everywhere. All else (TIFF, WebP, AVIF, HEIC, GIF, BMP, PNM, rare kinds
of JPEG) goes to a worker (`vgg.data.decode_worker`): a Python that has Pillow and this room but no
keys, and so much memory and time and no more. It stays for the next picture; one that ended is
replaced. On Windows, which has no such limits, only the clock counts.
"""

import atexit
import json
import math
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar

from PIL import Image

from vgg.data.formats import USUAL_PIXELS, ImageError, kind_of
from vgg.data.jpeg import is_plain_jpeg

SECONDS = 20  # by the clock, for one picture
MAX_WORKERS = 4
_BAND_BYTES = 8 * 1024 * 1024  # of pixels, that go through the pipe at a time
_LENGTH = struct.Struct("<I")  # of a message in front of it
_MESSAGE_BYTES = 64 * 1024
_VARIABLES = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "LANG", "LC_ALL", "PYTHONHOME")
_WORKER = "from vgg.data.decode_worker import serve; serve()"
_policy = {"apart": False}

Answer = TypeVar("Answer")
Receive = Callable[[tuple[int, ...], IO[bytes]], Answer]  # from the numbers of an answer


def decode_apart(on: bool) -> None:
    """Whether this process leaves the decoders that are known to be weak to workers."""
    _policy["apart"] = on


def wants_worker(data: bytes, asked: bool | None) -> bool:
    """Whether a worker is to decode a picture; `asked` None means: as `decode_apart` says."""
    if not (_policy["apart"] if asked is None else asked):
        return False
    match kind_of(data):
        case "PNG":  # a large one takes seconds
            width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
            return width * height > USUAL_PIXELS
        case "JPEG":
            return not is_plain_jpeg(data)
    return True


def decoded_apart(data: bytes, min_side: int | None, max_pixels: int, white: int) -> Image.Image:
    """`decoded` of `vgg.data.images`, by a worker; an `ImageError` where that ends."""
    request = {"pixels": True, "min_side": min_side, "max_pixels": max_pixels, "white": white}
    return _workers().ask(request, data, _receive_picture)


def size_apart(data: bytes, max_pixels: int) -> tuple[int, int]:
    """`upright_size` of `vgg.data.images`, by a worker."""
    request = {"pixels": False, "min_side": None, "max_pixels": max_pixels}
    return _workers().ask(request, data, lambda numbers, _: (numbers[0], numbers[1]))


def greatest_apart(data: bytes) -> int | None:
    """`greatest_value` of `vgg.data.depth`, by a worker; an `ImageError` where that ends."""
    request = {"pixels": False, "greatest": True}
    return _workers().ask(request, data, lambda numbers, _: numbers[0] if numbers else None)


class _Worker:
    """One process, which is given one picture at a time."""

    def __init__(self) -> None:
        known = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders say much there of hostile files
            # What a decoder leaves unset is to hold nothing of another visitor's picture.
            env=known | {"PYTHONPATH": str(Path(__file__).parents[2]), "MALLOC_PERTURB_": "85"},
        )

    def ask(self, request: dict[str, Any], data: bytes, take: Receive[Answer]) -> Answer:
        """Raises `ImageError` for a picture that is refused, and where it took too much."""
        assert self.process.stdin
        assert self.process.stdout
        late = threading.Event()

        def end() -> None:
            late.set()
            self.process.kill()

        clock = threading.Timer(SECONDS, end)
        clock.start()
        try:
            send(self.process.stdin, request | {"bytes": len(data)}, data)
            answer = receive(self.process.stdout)
            if "key" in answer:
                if answer["hurt"]:
                    self.end()
                raise _as_error(answer)
            numbers = tuple(map(int, answer["numbers"]))
            if request["pixels"] and not 0 < math.prod(numbers) <= request["max_pixels"]:
                raise ValueError
            return take(numbers, self.process.stdout)
        except ImageError:
            raise
        except BaseException as error:
            self.end()  # it may have more to say of this picture
            if not isinstance(error, OSError | EOFError | LookupError | TypeError | ValueError):
                raise
            # It has ended, or said what none of ours says.
            slow = late.is_set() or self.process.returncode == -getattr(signal, "SIGXCPU", 0)
            raise ImageError("data.slow_decoder" if slow else "data.dead_decoder") from None
        finally:
            clock.cancel()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class _Workers:
    """A few workers. Many threads may ask at once; who finds all of them at work waits."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(min(MAX_WORKERS, os.cpu_count() or 1))
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []

    def ask(self, request: dict[str, Any], data: bytes, take: Receive[Answer]) -> Answer:
        with self._places:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            worker = worker or _Worker()
            try:
                return worker.ask(request, data, take)
            finally:
                if worker.process.poll() is None:
                    with self._lock:
                        self._idle.append(worker)

    def end(self) -> None:
        while self._idle:
            self._idle.pop().end()


@cache
def _workers() -> _Workers:
    workers = _Workers()
    atexit.register(workers.end)
    return workers


def _receive_picture(numbers: tuple[int, ...], pipe: IO[bytes]) -> Image.Image:
    width, height = numbers
    size = width, height
    image = Image.new("RGB", size)
    for top, bottom in bands(size):
        pixels = exactly(pipe, 3 * size[0] * (bottom - top))
        image.paste(Image.frombytes("RGB", (size[0], bottom - top), pixels), (0, top))
    return image


def bands(size: tuple[int, int]) -> list[tuple[int, int]]:
    """The rows of pixels that go through the pipe at a time: the first, and the one behind."""
    step = max(1, _BAND_BYTES // (3 * size[0]))
    return [(top, min(top + step, size[1])) for top in range(0, size[1], step)]


def send(pipe: IO[bytes], message: dict[str, Any], data: bytes = b"") -> None:
    text = json.dumps(message).encode()
    pipe.write(_LENGTH.pack(len(text)) + text)
    pipe.write(data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> dict[str, Any]:
    (length,) = _LENGTH.unpack(exactly(pipe, _LENGTH.size))
    message = json.loads(exactly(pipe, min(length, _MESSAGE_BYTES)))
    if not isinstance(message, dict):
        raise TypeError
    return message


def exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data


def as_message(error: ImageError) -> dict[str, Any]:
    values = {
        name: as_message(value) if isinstance(value, ImageError) else value
        for name, value in error.values.items()
    }
    return {"key": error.key, "values": values}


def _as_error(message: dict[str, Any]) -> ImageError:
    values = {
        name: _as_error(value) if isinstance(value, dict) else value
        for name, value in message["values"].items()
    }
    error = ImageError(message["key"], **values)
    str(error)  # LookupError where there is no such sentence
    return error
