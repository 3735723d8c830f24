"""Image files, read as hostile: what they are and how large is known before a pixel is decoded. No torch."""

import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tierline.errors import InputError
from tierline.run.source import Source
from tierline.units import format_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MOST_IMAGES = 64
MOST_PIXELS = 2**26
_MOST_FILE_BYTES = 2**26
_MOST_SIDE = 2**15


def check_images(source: Source, paths: Sequence[Path]) -> None:
    """Raise InputError where the model does not look at images, or a file is none that can be shown to it."""
    if not paths:
        return
    if "vision_config" not in source.config:
        raise InputError(f"{source.path}: is a model of text alone, which has no use for --image {paths[0]}")
    if len(paths) > MOST_IMAGES:
        raise InputError(f"{len(paths)} images: want at most {MOST_IMAGES} in one prompt")
    for path in paths:
        read_image(path)


def read_image(path: Path, most_pixels: int = MOST_PIXELS) -> "Image":
    """Return the (first) image of a file, in RGB; raise InputError naming what is wrong with it."""
    where = f"--image {path}"
    if not path.is_file():
        raise InputError(f"{where}: no such file")
    if (file_bytes := path.stat().st_size) > _MOST_FILE_BYTES:
        raise InputError(
            f"{where}: {format_bytes(file_bytes)}, more than {format_bytes(_MOST_FILE_BYTES)}, which "
            "no image for a model needs; make it smaller"
        )
    try:
        with path.open("rb") as file:
            return decode_image(file, where, most_pixels)
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror}") from error


def decode_image(file: IO[bytes] | bytes, where: str, most_pixels: int = MOST_PIXELS) -> "Image":
    """Return the (first) image in `file`, in RGB.

    Raises InputError, which begins with `where`, for what is none, is damaged or has more than `most_pixels`.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise InputError("images need pillow: pip install 'tierline[run]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decoded(BytesIO(file) if isinstance(file, bytes) else file, where, most_pixels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{where}: {str(error)[:200]} Make it smaller") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{where}: is none of {', '.join(FORMATS)}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"{where}: is damaged: {str(error)[:200]}") from error


def _decoded(file: IO[bytes], where: str, most_pixels: int) -> "Image":
    from PIL import Image

    with Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        if width * height > most_pixels or max(width, height) > _MOST_SIDE:
            raise InputError(
                f"{where}: {width:,} x {height:,} pixels, more than {most_pixels:,} or a side of "
                f"{_MOST_SIDE:,}: a model sees it much smaller, so make it smaller"
            )
        return image.convert("RGB")
