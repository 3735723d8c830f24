"""Prompts with images as a model takes them: transformers' own processors, in their form for PIL.

Torchvision is not needed: the video part of a processor, which cannot do without it, is left out.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import torch
import transformers
from jinja2 import TemplateError
from transformers import AutoImageProcessor, PreTrainedTokenizerBase
from transformers.models.auto.auto_mappings import PROCESSOR_MAPPING_NAMES

from tierline.errors import InputError
from tierline.run.request import Request
from tierline.run.source import Source

if TYPE_CHECKING:
    from PIL.Image import Image

# SmolVLM's processor is Idefics3's with videos, and cannot be made without what reads those.
_PLAIN_PROCESSORS = {"smolvlm": "Idefics3Processor"}
_PARTS = ["image_processor", "tokenizer"]
_AROUND = ("<|vision_start|>", "<|vision_end|>")  # the tokens that Qwen's models have around an image
_OF_TEXT = ("input_ids", "attention_mask", "mm_token_type_ids", "text_replacement_offsets")
_TYPES, _PLACES = "mm_token_type_ids", "image_grid_thw"


@dataclass(frozen=True, slots=True)
class Looked:
    """Images as the model takes them: tensors by name, and for each image the text that stands for it."""

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    texts: tuple[str, ...] = ()

    @property
    def pixels(self) -> int:
        """Numbers that what looks computes with."""
        return max((t.numel() for t in self.tensors.values() if t.is_floating_point()), default=0)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; `images` has the text that stands for each image, which come first."""

    role: str
    content: str
    images: tuple[str, ...] = ()

    def parts(self) -> dict[str, object]:
        """Return the turn as the chat template of a model that looks at images takes it."""
        shown = ({"type": "image"} for _ in self.images)
        return {"role": self.role, "content": [*shown, {"type": "text", "text": self.content}]}


class Looker:
    """The processor of a model that looks at images: what it makes of images, and of text that has some."""

    def __init__(self, source: Source, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise InputError where transformers has no such processor, or the files are not its own."""
        self._path = source.path
        try:
            self._processor = _processor(source, tokenizer)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{source.path}: has no processor for images: {str(error)[:300]}") from error

    @property
    def places_images(self) -> bool:
        """Whether the model counts positions by image, so that it needs all images of a prompt at once."""
        return bool(getattr(self._processor, "return_mm_token_type_ids", False))

    def look(self, images: Sequence["Image"]) -> Looked:
        """Return `images` as the model takes them; raise InputError where its processor does not."""
        if not images:
            return Looked()
        marks = self._processor.image_token * len(images)
        try:
            made = self._processor(
                text=marks, images=list(images), return_tensors="pt", return_text_replacement_offsets=True
            )
            texts = tuple(str(found["replacement"]) for found in made["text_replacement_offsets"][0])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self._path}: its processor takes no such image: {str(error)[:300]}"
            ) from error
        found = {n: v for n, v in made.items() if isinstance(v, torch.Tensor) and n not in _OF_TEXT}
        return Looked(found, texts)

    def turn_ids(self, turns: Sequence[Turn]) -> torch.Tensor:
        """Return the token ids of a conversation that waits for an answer, shape `(1, tokens)`.

        Raises InputError where the model has no chat template, or its template takes not these turns.
        """
        template = self._processor.chat_template
        if not template:
            raise InputError(f"{self._path}: has no chat template; --raw sends text as it is")
        try:
            text = self._processor.tokenizer.apply_chat_template(
                [turn.parts() for turn in turns],
                chat_template=template,
                add_generation_prompt=True,
                tokenize=False,
            )
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{self._path}: its chat template does not take these turns: {str(error)[:300]}"
            ) from error
        return self._ids(str(text), tuple(chain.from_iterable(turn.images for turn in turns)))

    def prompt_ids(self, request: Request, images: Sequence[str]) -> torch.Tensor:
        """Return the token ids of a text with images before it, shape `(1, tokens)`, as `request` has it."""
        if request.raw or not self._processor.chat_template:
            return self.raw_ids(request.text, images)
        return self.turn_ids([Turn("user", request.text, tuple(images))])

    def raw_ids(self, text: str, images: Sequence[str]) -> torch.Tensor:
        """Return the token ids of `text` and the images for which `images` stand, shape `(1, tokens)`.

        Images come before the text, unless it has the model's mark of an image as often as there are images.
        """
        mark = self._processor.image_token
        if mark not in text:
            around = [n for n in _AROUND if n in self._processor.tokenizer.get_added_vocab()]
            each = mark.join(around) if len(around) == len(_AROUND) else mark
            text = f"{each * len(images)}{text}"
        return self._ids(text, images)

    def _ids(self, text: str, images: Sequence[str]) -> torch.Tensor:
        processor, texts = self._processor, iter(images)
        marked = text.count(processor.image_token)
        if marked != len(images):
            raise InputError(
                f"the text has {marked} times {processor.image_token}, and there are {len(images)} images"
            )
        whole = re.sub(re.escape(processor.image_token), lambda _: next(texts), text)
        begun = processor.tokenizer.bos_token is not None and whole.startswith(processor.tokenizer.bos_token)
        ids: torch.Tensor = processor.tokenizer(whole, return_tensors="pt", add_special_tokens=not begun)[
            "input_ids"
        ]
        return ids

    def inputs(
        self, ids: torch.Tensor, looked: Looked, mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return what the model is called with for prompts `ids`, `(sequences, tokens)`, and their images.

        `mask`, of the same shape, is 0 where there is only padding. Raises InputError where a model that
        counts positions by image could not tell images apart.
        """
        seen = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids) if mask is None else mask,
            **looked.tensors,
        }
        if self.places_images and looked.texts:
            seen[_TYPES] = ids.eq(self._processor.image_token_id).long()
            found = sum(1 for row in seen[_TYPES].tolist() for a, b in pairwise([0, *row]) if b and not a)
            if found != len(looked.texts):
                raise InputError(
                    f"{self._path}: {len(looked.texts)} images stand in {found} places: put something "
                    "between them"
                )
        return seen

    def uncached(self, ids: Sequence[int], cached: int, texts: Sequence[str]) -> int:
        """Return how many of the last images of the prompt `ids` have tokens after the first `cached`."""
        mark, processor = self._processor.image_token_id, self._processor
        left = sum(1 for token in ids[cached:] if token == mark)
        count = 0
        for text in reversed(texts):
            if left <= 0:
                break
            left -= text.count(processor.image_token)
            count += 1
        return count


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
