"""The tokenizer of a GGUF file: converted by transformers once, then kept: converting is slow and large.

Converting takes seconds and, for a vocabulary of 49,152, some 140 MiB for a moment: more than a small memory
budget leaves. What is kept is an ordinary tokenizer's folder.
"""

import hashlib
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from tierline.cache import cache_folder
from tierline.models.stored import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PIECE_BYTES = 2**20


def gguf_tokenizer(checkpoint: Checkpoint) -> "PreTrainedTokenizerBase":
    """Return the tokenizer in the file's metadata; raises as transformers' AutoTokenizer does."""
    from transformers import AutoTokenizer

    (file,) = checkpoint.files
    kept = cache_folder() / "tokenizers" / _digest(file, checkpoint)
    tokenizer: PreTrainedTokenizerBase
    if kept.is_dir():
        try:
            tokenizer = AutoTokenizer.from_pretrained(kept, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError):  # what is kept is damaged: make it again
            shutil.rmtree(kept, ignore_errors=True)
        else:
            return tokenizer
    tokenizer = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
    )
    _keep(tokenizer, kept)
    return tokenizer


def _digest(file: Path, checkpoint: Checkpoint) -> str:
    """Return what tells this metadata and this converter from others: everything before the first tensor."""
    digest = hashlib.sha256()
    for package in ("tierline", "transformers", "tokenizers", "gguf"):
        digest.update(f"{package}={version(package)};".encode())
    left = min((tensor.offset for tensor in checkpoint.tensors.values()), default=0)
    with file.open("rb") as opened:
        while left > 0 and (piece := opened.read(min(left, _PIECE_BYTES))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()[:32]


def _keep(tokenizer: "PreTrainedTokenizerBase", kept: Path) -> None:
    """Keep the tokenizer, whole or not at all; where that cannot be written it is done without."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as made:
            whole = Path(made) / "tokenizer"
            tokenizer.save_pretrained(whole)
            whole.rename(kept)
    except OSError:
        return
