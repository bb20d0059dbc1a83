"""Pictures as the page shows them: within the page itself, or as files that Gradio serves."""

import base64
from html import escape
from io import BytesIO

from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image


def data_url(image: Image.Image, size: tuple[int, int] | None = None, quality: int = 85) -> str:
    """A picture inside the page itself; `size` in pixels, (width, height)."""
    if size is not None and image.size != size:
        image = image.resize(size)
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def size_within(image: Image.Image, side: int) -> tuple[int, int]:
    """The picture's size where its longer side has `side` pixels."""
    scale = side / max(image.size)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def image_tag(image: Image.Image, alt: str, size: tuple[int, int] | None = None) -> str:
    """The picture as HTML."""
    return f"<img alt='{escape(alt)}' src='{data_url(image, size)}'>"


def served_file(name: str, data: bytes) -> str:
    """Put a file where Gradio serves it, and deletes it when it is old."""
    path: str = save_bytes_to_cache(data, name, get_upload_folder())
    return path


def served_png(name: str, image: Image.Image) -> str:
    """Serve a picture without loss, so that it is answered as the original is."""
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # more takes seconds for a photograph
    return served_file(name, buffer.getvalue())
