"""Pictures decoded in a process of their own: the same pictures, and nothing ends this process."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pictures import encoded, lossless_jpeg, picture, png
from PIL import Image

from vgg.data import decoding
from vgg.data.depth import greatest_value
from vgg.data.images import ImageError, probe_size, read_image

SERVE = """
import os, time, vgg.data.decode_worker as d, vgg.data.jpeg as j
{}
d.serve()
"""


@pytest.fixture(autouse=True)
def fresh_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[decoding._Workers]:
    workers = decoding._Workers()
    monkeypatch.setattr(decoding, "_workers", lambda: workers)
    yield workers
    workers.end()


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "GIF", "BMP", "AVIF", "PPM", "PNG", "JPEG"])
def test_a_worker_reads_what_this_process_reads(kind: str) -> None:
    data = encoded(picture(300, 200), kind)
    assert read_image(data, apart=True).tobytes() == read_image(data).tobytes()


def test_a_worker_refuses_in_the_same_words(tmp_path) -> None:
    for name, data in (
        ("cut.webp", encoded(picture(), "WEBP")[:-9]),
        ("a.bmp", b"BM"),
        ("n.txt", b"x"),
    ):
        (tmp_path / name).write_bytes(data)
        said = []
        for apart in (True, False):
            with pytest.raises(ImageError, match=name) as caught:
                read_image(tmp_path / name, apart=apart)
            said.append(str(caught.value))
        assert said[0] == said[1]


@pytest.mark.parametrize(
    ("data", "wants"),
    [
        (encoded(picture(), "JPEG"), False),
        (encoded(picture(), "JPEG", progressive=True), False),
        (encoded(picture(), "PNG"), False),
        (encoded(picture(), "WEBP"), True),
        (lossless_jpeg(), True),
        (png(9000, 8000), True),  # takes seconds
    ],
)
def test_only_plain_pictures_are_decoded_in_a_public_page(data: bytes, wants: bool) -> None:
    assert decoding.wants_worker(data, True) == wants
    assert not decoding.wants_worker(data, None)


def test_a_public_page_leaves_sizes_and_depths_to_workers_too(
    fresh_workers: decoding._Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding.decode_apart(True)
    try:
        assert probe_size(encoded(picture(), "TIFF")) == picture().size
        assert len(fresh_workers._idle) == 1
        assert len(probe_size(png(9, 9))) == 2
        grey = Image.new("I;16", (4, 3), 1023)
        monkeypatch.setattr("vgg.data.depth.open_picture", lambda *_: pytest.fail("decoded here"))
        assert greatest_value(encoded(grey, "TIFF")) == 1023
    finally:
        decoding.decode_apart(False)


@pytest.mark.parametrize(
    ("broken", "data", "words"),
    [
        # The heap is overrun, where the decoder is made to reduce what it can't.
        ("j._Header.plain = True", lossless_jpeg(), "damaged|breaks its decoder"),
        ("d.decoded = lambda *_: os.abort()", b"BM", "breaks its decoder"),
        ("d.send = lambda *_: exit()", b"BM", "breaks its decoder"),
        ("d.as_message = lambda _: {'key': 'x', 'values': {}}", b"BM", "breaks its decoder"),
        ("d.decoded = lambda *_: time.sleep(60)", b"BM", "too long"),
        ("d.CPU_SECONDS = 0; d.decoded = lambda *_: max(iter(int, 1))", b"BM", "too long"),
        pytest.param(
            "d.MEMORY = 2**28",
            encoded(Image.new("L", (7000, 7000)), "BMP"),
            "memory",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="has no such limit"),
        ),
    ],
)
def test_what_ends_a_worker_is_a_sentence_and_the_next_picture_is_read(
    broken: str, data: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep" in broken:
        monkeypatch.setattr(decoding, "SECONDS", 2)
    with monkeypatch.context() as first:
        first.setattr(decoding, "_WORKER", SERVE.format(broken))
        with pytest.raises(ImageError, match=words):
            read_image(data, apart=True, min_side=256)
    monkeypatch.setattr(decoding, "SECONDS", 20)
    assert read_image(encoded(picture(), "BMP"), apart=True).size == picture().size


def test_many_threads_share_a_few_workers(fresh_workers: decoding._Workers) -> None:
    files = [encoded(picture(100 + k, 50), "WEBP", lossless=True) for k in range(20)]
    with ThreadPoolExecutor(10) as pool:
        read = list(pool.map(lambda data: read_image(data, apart=True), files))
    assert [image.size for image in read] == [(100 + k, 50) for k in range(20)]
    assert 1 <= len(fresh_workers._idle) <= decoding.MAX_WORKERS
