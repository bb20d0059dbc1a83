"""Pictures of any mode as RGB of 8 bits, and upright."""

import math

from PIL import Image, ImageMath

from vgg.data.formats import ImageError

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The picture turned as EXIF's number for how it lies (1 to 8) asks for; others mean none."""
    return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image


def to_rgb(image: Image.Image, white: int = 65535) -> Image.Image:
    """A new RGB picture, of the same size, from any mode: deep grey is scaled, `white` is white in
    16 bits, and clear parts are white, as `read_image` says."""
    if image.mode[0] in "IF":
        image = _deep_grey_to_8_bit(image, white)
    if not image.has_transparency_data:
        if image.mode == "RGB":  # `convert` would copy it, of a large photograph 200 MB
            return image._new(image.im)
        return image.convert("RGB")
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def _deep_grey_to_8_bit(image: Image.Image, white: int) -> Image.Image:
    """Grey of 16 or 32 bits (modes I;16 and kin, I, F) as mode L, or LA if partly see-through."""
    sixteen_bit = image.mode.startswith("I;16")
    deep = image.convert("I") if sixteen_bit else image
    low, high = deep.getextrema()
    assert isinstance(low, int | float)  # one band
    assert isinstance(high, int | float)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError("data.infinite")
    if sixteen_bit:
        low, high = 0, white
    elif low >= 0:
        tops = (1, 255, 65535) if image.mode == "F" else (255, 65535)
        low, high = next(((0, top) for top in tops if high <= top), (low, high))
    scale = 255 / (high - low or 1)
    grey = deep.point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
    key = image.info.get("transparency")
    if sixteen_bit and key is not None:
        opaque = ImageMath.lambda_eval(lambda bands: (bands["deep"] != key) * 255, deep=deep)
        grey.putalpha(opaque.convert("L"))
    return grey
