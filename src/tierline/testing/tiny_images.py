"""Write tiny random models that look at images, with their processors, and images for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SPLIT = 2  # rows and columns of pieces that an image is cut into at most
_PATCH = 7
_IMAGE_TOKEN = 300  # the first that is not a word
_WORDS = 300
_TEXT: Mapping[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
_MARKS: Mapping[str, tuple[str, ...]] = {
    "smolvlm": ("<image>", "<fake_token_around_image>", "<global-img>"),
    "idefics3": ("<image>", "<fake_token_around_image>", "<global-img>"),
    "llava": ("<image>",),
    "qwen2_vl": ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
}
SEEING = tuple(_MARKS)


def chat_template(family: str) -> str:
    """Return a chat template that has the family's mark for each image, and a word after each text."""
    start, end = ("<|vision_start|>", "<|vision_end|>") if family == "qwen2_vl" else ("", "")
    return (
        "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'image' %}"
        f"{start}{_MARKS[family][0]}{end}"
        "{% else %}{{ p['text'] }} t7 {% endif %}{% endfor %}{% endfor %}"
    )


def write_seeing(
    folder: Path, family: str, *, dtype: str = "bfloat16", seed: int = 0, chat: bool = False
) -> Path:
    """Write a random model of `family` (of SEEING) as config, safetensors, tokenizer and processor.

    The text part has words `t0` to `t299`, and the family's marks for images after them; with `chat` it has
    the family's `chat_template`. Returns `folder`.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(seed)
    config = _idefics3(family) if family in ("smolvlm", "idefics3") else globals()[f"_{family}"]()
    model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    pil_processor(family, _tokenizer(family)).save_pretrained(folder)
    if chat:
        (folder / "chat_template.jinja").write_text(chat_template(family), encoding="utf-8")
    return folder


def write_image(path: Path, width: int, height: int, seed: int = 0) -> Path:
    """Write an image of random pixels in the format of the name's ending; return `path`."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _idefics3(family: str) -> Any:  # noqa: ANN401 - configs have no common type of use here
    from transformers import Idefics3Config, SmolVLMConfig

    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 4 * _PATCH,
        "patch_size": _PATCH,
        "initializer_range": 0.2,
    }
    made = SmolVLMConfig if family == "smolvlm" else Idefics3Config
    return made(
        text_config={"model_type": "llama", **_TEXT},
        vision_config=vision,
        scale_factor=2,
        image_token_id=_IMAGE_TOKEN,
        tie_word_embeddings=False,
    )


def _llava() -> Any:  # noqa: ANN401 - as above
    from transformers import LlavaConfig

    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 4 * _PATCH,
        "patch_size": _PATCH,
        "initializer_range": 0.2,
    }
    return LlavaConfig(
        text_config={"model_type": "llama", **_TEXT},
        vision_config=vision,
        image_token_index=_IMAGE_TOKEN,
        image_seq_length=16,
    )


def _qwen2_vl() -> Any:  # noqa: ANN401 - as above
    from transformers import Qwen2VLConfig

    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 2, 2]}
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": _TEXT["hidden_size"],
        "num_heads": 4,
        "mlp_ratio": 2,
        "patch_size": _PATCH,
        "initializer_range": 0.2,
    }
    marks: dict[str, Any] = {
        f"{name}_token_id": _IMAGE_TOKEN + i
        for i, name in enumerate(("image", "video", "vision_start", "vision_end"))
    }
    return Qwen2VLConfig(text_config={**_TEXT, "rope_parameters": rope}, vision_config=vision, **marks)


def _tokenizer(family: str) -> Any:  # noqa: ANN401 - as above
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(_WORDS)}, unk_token="t0"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces = [f"<row_{r}_col_{c}>" for r in range(1, 1 + _SPLIT) for c in range(1, 1 + _SPLIT)]
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="t1",  # noqa: S106 - a word, no secret
        eos_token="t2",  # noqa: S106
        unk_token="t0",  # noqa: S106
        additional_special_tokens=[*_MARKS[family], *(pieces if len(_MARKS[family]) == 3 else ())],
    )


def pil_processor(family: str, tokenizer: Any) -> Any:  # noqa: ANN401 - as above
    """Return the family's processor without the part for videos, which needs torchvision."""
    from transformers import Idefics3Processor, LlavaProcessor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    side = 4 * _PATCH
    looker: Any
    if family == "qwen2_vl":
        return _without_videos(
            Qwen2VLImageProcessorPil(patch_size=_PATCH, min_pixels=14**2, max_pixels=28**2), tokenizer
        )
    if family == "llava":
        square = {"height": side, "width": side}
        looker = LlavaImageProcessorPil(size={"shortest_edge": side}, crop_size=square)
        return LlavaProcessor(
            looker,
            tokenizer,
            patch_size=_PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )
    made = SmolVLMImageProcessorPil if family == "smolvlm" else Idefics3ImageProcessorPil
    looker = made(size={"longest_edge": _SPLIT * side}, max_image_size={"longest_edge": side})
    return Idefics3Processor(looker, tokenizer, image_seq_len=4)


def _without_videos(looker: Any, tokenizer: Any) -> Any:  # noqa: ANN401 - as above
    """Return Qwen2-VL's processor, which saves itself part by part."""
    from transformers import Qwen2VLProcessor

    def save(_: object, folder: Path) -> None:
        looker.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    parts = classmethod(lambda _: ["image_processor", "tokenizer"])
    made: Any = type(
        "Qwen2VLProcessor", (Qwen2VLProcessor,), {"get_attributes": parts, "save_pretrained": save}
    )
    return made(looker, tokenizer)
