"""The small files beside the weights: config, tokenizer, generation settings."""

import json
import shutil
from pathlib import Path

from tierline.models.hub import CONFIG_NAME
from tierline.run.source import Source

_LARGEST_BYTES = 256 * 2**20
_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken")
_WEIGHTS_INDEX = ".safetensors.index.json"


def write_companions(source: Source, folder: Path, number_format: str) -> None:
    """Write what a model directory holds beside its weights, so that `folder` can be run by itself.

    Files of a directory are copied; of a GGUF file, the config and the tokenizer are made. `number_format`
    is the one to compute in (the config's dtype).
    """
    if source.checkpoint.kind == "gguf":
        source.tokenizer().save_pretrained(folder)
    else:
        for file in sorted(source.path.iterdir()):
            if _belongs(file):
                shutil.copyfile(file, folder / file.name)
    dtype = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[number_format]
    config = {k: v for k, v in source.config.items() if k != "torch_dtype"} | {"dtype": dtype}
    partial = folder / f"{CONFIG_NAME}.partial"
    partial.write_text(json.dumps(config, indent=2), encoding="utf-8")
    partial.replace(folder / CONFIG_NAME)


def _belongs(file: Path) -> bool:
    return (
        file.is_file()
        and file.suffix in _SUFFIXES
        and not file.name.endswith(_WEIGHTS_INDEX)
        and file.stat().st_size <= _LARGEST_BYTES
    )
