"""Names what a picture shows: `python predict.py photo.jpg`. Needs onnxruntime, numpy, pillow."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read(file: str, jpeg_side: int, deep_white: int = 65535) -> np.ndarray:
    """The picture as the model takes it: uint8 RGB (height, width, 3), upright, clear parts white.

    A JPEG is decoded no larger than the model needs. Grey of 16 or 32 bits becomes 8 bits;
    `deep_white` is white in 16, where they hold no more.
    """
    opened = Image.open(file)
    opened.draft(None, (jpeg_side, jpeg_side))
    image: Image.Image = ImageOps.exif_transpose(opened)
    if image.mode[0] in "IF":
        grey = np.asarray(image, np.float64)
        most, deep = grey.max(), image.mode.startswith("I;16") or image.format == "PPM"
        top = 65535 if deep or most > 255 else 1 if image.mode == "F" and most <= 1 else 255
        top = deep_white if deep and most <= deep_white else top
        grey = (grey * (255 / top) + 0.5).clip(0, 255)
        image = Image.fromarray(grey.astype(np.uint8))
    image, white = image.convert("RGBA"), Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return np.asarray(white)


def open_model(file: Path | None = None) -> onnxruntime.InferenceSession:
    """The network; by default the one beside this file."""
    return onnxruntime.InferenceSession(file or Path(__file__).with_name("model.onnx"))


def predict(model: onnxruntime.InferenceSession, file: str) -> dict[str, float]:
    """Each class with its probability, 0 to 1, in the model's order."""
    notes = model.get_modelmeta().custom_metadata_map
    picture = read(file, int(notes["jpeg_side"]), int(notes["white"]))
    probs = model.run(None, {"picture": picture})[0]
    return dict(zip(json.loads(notes["class_names"]), probs.tolist(), strict=True))


if __name__ == "__main__":
    answers = predict(open_model(), sys.argv[1])
    for name in sorted(answers, key=answers.__getitem__, reverse=True)[:5]:
        print(f"{answers[name]:6.1%}  {name}")
