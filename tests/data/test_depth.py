"""Grey of 16 bits that holds fewer is scaled by what it holds; what is nearly black is said."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from vgg.data.folder import scan_folder
from vgg.data.images import read_image
from vgg.data.reading import load_picture
from vgg.inference.predictor import Predictor
from vgg.network.config import ModelConfig, Preprocessing
from vgg.network.vgg import VGG


def deep(top: int, seed: int = 0) -> Image.Image:
    """A ramp from 0 to `top`, of 16 bits."""
    ramp = np.linspace(0, top, 48 * 48).reshape(48, 48)
    return Image.fromarray(np.roll(ramp, seed, 1).astype(np.uint16))


def put(root: Path, tops: list[int], suffix: str = ".png") -> Path:
    for number, top in enumerate(tops):
        folder = root / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        deep(top, number).save(folder / f"{number}{suffix}")
    return root


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    ("tops", "white"),
    [
        ([1000, 900, 600, 1023], 1023),
        ([4095, 3000, 2000, 4000], 4095),
        ([16383] * 4, 16383),
        ([65535, 4000, 4000, 4000], 65535),  # one is of all 16
        ([50, 60, 50, 60], 65535),  # numbers of something, or nothing to see
    ],
)
def test_what_all_pictures_hold_is_white(
    tops: list[int], white: int, suffix: str, tmp_path: Path
) -> None:
    index = scan_folder(put(tmp_path, tops, suffix))
    assert index.white == white
    said = f"pictures of 16 bits hold {white.bit_length()}: {white} is white"
    assert (said in index.notes) is (white != 65535)
    cfg = Preprocessing(input_size=(3, 32, 32), white=index.white)
    brightest = [int(load_picture(s.path, cfg).pixels.max()) for s in index.samples]
    assert max(brightest) >= 200 or max(tops) < 100
    dark = float(np.median(tops)) < white / 7
    assert any("nearly black" in note for note in index.notes) is dark
    assert not any("at most 255" in note for note in index.notes)


def test_a_picture_of_more_bits_than_the_others_keeps_its_range(tmp_path: Path) -> None:
    deep(65535).save(tmp_path / "a.png")
    deep(4095).save(tmp_path / "b.png")
    for name, white, brightest in (("a", 4095, 255), ("b", 4095, 255), ("b", 65535, 16)):
        assert read_image(tmp_path / f"{name}.png", white=white).getextrema()[0][1] == brightest


@pytest.mark.parametrize("top", [4095, 65535])
def test_a_file_may_say_how_many_bits_it_holds(top: int, tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 4095
    deep(top).save(tmp_path / "a.tif", tiffinfo=tags)
    deep(top).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    chunk = b"sBIT" + bytes([12])
    chunk = struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(whole[:33] + chunk + whole[33:])
    for name in ("a.tif", "a.png"):  # of all 16 bits, where an encoder has spread the 12 over them
        assert read_image(tmp_path / name).getextrema()[0][1] == 255


def test_a_model_answers_pictures_as_it_learned_them(tmp_path: Path) -> None:
    cfg = Preprocessing(input_size=(3, 32, 32), white=4095)
    config = ModelConfig("vgg11", 2, "gap", 0.06, pretrained_cfg=cfg)
    assert ModelConfig.from_json(config.to_json()).pretrained_cfg.white == 4095
    assert "white" not in ModelConfig("vgg11").to_json()["pretrained_cfg"]
    deep(4095).save(tmp_path / "a.png")
    predictor = Predictor(VGG.from_config(config).eval(), "cpu")
    assert int(predictor.prepare([tmp_path / "a.png"]).max()) > 200
    with pytest.raises(ValueError, match="white must be"):
        Preprocessing(white=0)
