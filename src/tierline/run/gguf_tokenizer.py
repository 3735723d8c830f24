"""The tokenizer of a GGUF file: converted by transformers once, then kept: converting is slow and large.

Converting takes seconds and, for a vocabulary of 49,152, some 140 MiB for a moment: more than a small memory
budget leaves. What is kept is an ordinary tokenizer's folder.
"""

import hashlib
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from tierline.cache import cache_folder
from tierline.errors import BudgetError
from tierline.models.stored import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PIECE_BYTES = 2**20


def gguf_tokenizer(checkpoint: Checkpoint) -> "PreTrainedTokenizerBase":
    """Return the tokenizer in the file's metadata; raises as transformers' AutoTokenizer does."""
    from transformers import AutoTokenizer

    (file,) = checkpoint.files
    kept = _folder(checkpoint)
    tokenizer: PreTrainedTokenizerBase
    if kept.is_dir():
        try:
            tokenizer = AutoTokenizer.from_pretrained(kept, local_files_only=True, trust_remote_code=False)
        except Exception:  # noqa: BLE001 - tokenizers raises nothing narrower; damaged as it is, make it again
            shutil.rmtree(kept, ignore_errors=True)
        else:
            return tokenizer
    tokenizer = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
    )
    _keep(tokenizer, kept)
    return tokenizer


def convert_apart(checkpoint: Checkpoint) -> None:
    """Have the tokenizer converted and kept by another process, unless it is: its memory is then given back.

    A file that cannot be converted is left to `gguf_tokenizer`, which says why. Raises BudgetError where the
    other process was killed, as happens when a limit on both is too small for it.
    """
    if _folder(checkpoint).is_dir():
        return
    (file,) = checkpoint.files
    done = subprocess.run(  # noqa: S603 - ourselves, on a file that is ours to run
        [sys.executable, "-m", __name__, str(file)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if done.returncode == -signal.SIGKILL:
        raise BudgetError(
            f"{file}: its tokenizer is converted once, and the process that does it was killed: it takes "
            "more memory than its cgroup allows. Run it once with a higher limit; what it makes is then kept"
        )


def _folder(checkpoint: Checkpoint) -> Path:
    """Return where the tokenizer of this metadata, made by these packages, is kept."""
    (file,) = checkpoint.files
    digest = hashlib.sha256()
    for package in ("tierline", "transformers", "tokenizers", "gguf"):
        digest.update(f"{package}={version(package)};".encode())
    left = min((tensor.offset for tensor in checkpoint.tensors.values()), default=0)
    with file.open("rb") as opened:
        while left > 0 and (piece := opened.read(min(left, _PIECE_BYTES))):
            digest.update(piece)
            left -= len(piece)
    return cache_folder() / "tokenizers" / digest.hexdigest()[:32]


def _keep(tokenizer: "PreTrainedTokenizerBase", kept: Path) -> None:
    """Keep the tokenizer, whole or not at all; where that cannot be written it is done without."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as made:
            whole = Path(made) / "tokenizer"
            tokenizer.save_pretrained(whole)
            whole.rename(kept)
    except Exception:  # noqa: BLE001 - a full disk is a plain Exception where tokenizers writes
        return


def _main() -> None:
    from tierline.run.source import open_source

    open_source(Path(sys.argv[1])).tokenizer()


if __name__ == "__main__":
    _main()
