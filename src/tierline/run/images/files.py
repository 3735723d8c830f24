"""Image files, read as hostile: what they are and how large is known before a pixel is decoded. No torch."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tierline.errors import InputError
from tierline.run.source import Source
from tierline.units import format_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MOST_IMAGES = 64
_MOST_FILE_BYTES = 2**26
_MOST_PIXELS = 2**26
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


def read_image(path: Path) -> "Image":
    """Return the (first) image of a file, in RGB; raise InputError naming what is wrong with it."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise InputError("--image needs pillow: pip install 'tierline[run]'") from None
    if not path.is_file():
        raise InputError(f"--image {path}: no such file")
    if (file_bytes := path.stat().st_size) > _MOST_FILE_BYTES:
        raise InputError(
            f"--image {path}: {format_bytes(file_bytes)}, more than {format_bytes(_MOST_FILE_BYTES)}, which "
            "no image for a model needs; make it smaller"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decoded(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"--image {path}: {str(error)[:200]} Make it smaller") from error
    except UnidentifiedImageError as error:
        raise InputError(f"--image {path}: is none of {', '.join(FORMATS)}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"--image {path}: is damaged: {str(error)[:200]}") from error


def _decoded(path: Path) -> "Image":
    from PIL import Image

    with Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        if width * height > _MOST_PIXELS or max(width, height) > _MOST_SIDE:
            raise InputError(
                f"--image {path}: {width:,} x {height:,} pixels, more than {_MOST_PIXELS:,} or a side of "
                f"{_MOST_SIDE:,}: a model sees it much smaller, so make it smaller"
            )
        return image.convert("RGB")
