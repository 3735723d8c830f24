"""A prompt with images as a model takes it: transformers' own processors, in their form for PIL.

Torchvision is not needed: the video part of a processor, which cannot do without it, is left out.
"""

import inspect
from itertools import pairwise
from typing import Any

import torch
import transformers
from transformers import AutoImageProcessor, PreTrainedTokenizerBase
from transformers.models.auto.auto_mappings import PROCESSOR_MAPPING_NAMES

from tierline.errors import InputError
from tierline.run.images.files import read_image
from tierline.run.request import Request
from tierline.run.source import Source

# SmolVLM's processor is Idefics3's with videos, and cannot be made without what reads those.
_PLAIN_PROCESSORS = {"smolvlm": "Idefics3Processor"}
_PARTS = ["image_processor", "tokenizer"]
_AROUND = ("<|vision_start|>", "<|vision_end|>")  # the tokens that Qwen's models have around an image


def image_prompt(
    source: Source, tokenizer: PreTrainedTokenizerBase, request: Request
) -> dict[str, torch.Tensor]:
    """Return what the model is called with for the text and the images of `request`, of batch 1.

    Images come before the text, unless raw text has the model's mark of an image as often as there are
    images. Raises InputError for a file that is no image, and where the model's processor takes it not.
    """
    images = [read_image(path) for path in request.images]
    try:
        processor = _processor(source, tokenizer)
        made = processor(text=_text(processor, request), images=images, return_tensors="pt")
        _check_apart(made, len(images))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{source.path}: its processor takes no such prompt: {str(error)[:300]}") from error
    return {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}


def _text(processor: Any, request: Request) -> str:  # noqa: ANN401 - each class of processor has its own
    count, mark = len(request.images), processor.image_token
    if processor.chat_template and not request.raw:
        content = [*({"type": "image"} for _ in range(count)), {"type": "text", "text": request.text}]
        turns = [{"role": "user", "content": content}]
        return str(processor.tokenizer.apply_chat_template(
            turns, chat_template=processor.chat_template, add_generation_prompt=True, tokenize=False
        ))  # fmt: skip
    marked = request.text.count(mark)
    if marked not in (0, count):
        raise ValueError(f"the text has {marked} times {mark}, and there are {count} images")
    around = [name for name in _AROUND if name in processor.tokenizer.get_added_vocab()]
    each = mark.join(around) if len(around) == len(_AROUND) else mark
    return request.text if marked else f"{each * count}{request.text}"


def _check_apart(made: Any, count: int) -> None:  # noqa: ANN401 - as above
    """Raise ValueError where a model that counts positions by image could not tell images apart."""
    if "image_grid_thw" not in made:
        return
    kinds = made["mm_token_type_ids"][0].tolist()
    found = sum(1 for before, kind in pairwise([0, *kinds]) if kind and not before)
    if found != count:
        raise ValueError(f"{count} images stand in {found} places: put something between them")


def _processor(source: Source, tokenizer: PreTrainedTokenizerBase) -> Any:  # noqa: ANN401 - as above
    kind = str(source.config["model_type"])
    name = _PLAIN_PROCESSORS.get(kind) or PROCESSOR_MAPPING_NAMES.get(kind)
    if name is None:
        raise InputError(f"{source.path}: transformers has no processor for images of {kind!r}")
    base: Any = getattr(transformers, str(name))
    seeing = type(base.__name__, (base,), {"get_attributes": classmethod(lambda _: list(_PARTS))})
    stored, _ = base.get_processor_dict(source.path, local_files_only=True)
    taken = inspect.signature(base.__init__).parameters
    options = {key: value for key, value in stored.items() if key in taken and not key.endswith("processor")}
    options.setdefault("chat_template", tokenizer.chat_template)
    if "video_processor" in taken:
        options["video_processor"] = None
    looker = AutoImageProcessor.from_pretrained(source.path, backend="pil", local_files_only=True)
    return seeing(image_processor=looker, tokenizer=tokenizer, **options)
