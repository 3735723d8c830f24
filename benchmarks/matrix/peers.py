"""Other engines, each in an environment of its own: what is installed there and how one cell is run."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from matrix.cells import TIERLINE, Cell
from matrix.models import file_of

_ENGINES = Path(__file__).parents[1] / "engines"
_TORCH = ("torch==2.13.0",)  # by itself and first: the build without CUDA, where one is offered
# What is installed, in steps.
_INSTALLED: dict[str, tuple[tuple[str, ...], ...]] = {
    "llamacpp": (("xllamacpp==2026.10.11549",),),
    "transformers": (_TORCH, ("transformers==5.23.0", "accelerate==1.15.0")),
    "airllm": (_TORCH, ("airllm==4.0.0", "transformers==5.23.0")),
}
_MODES = {
    "llama.cpp mmap": ("mmap",),
    "llama.cpp mmap, locked": ("mmap",),
    "llama.cpp no mmap": ("none",),
    "llama.cpp direct io": ("direct_io",),
}
# What a process needs besides the weights that are locked or held, so that it does not die: seen, not tuned.
_LLAMA_CPP_BYTES = 256 * 2**20
_ACCELERATE_BYTES = 800 * 2**20


@dataclass(frozen=True, slots=True)
class Environments:
    """The folder that holds one virtual environment per engine."""

    folder: Path

    def command(self, cell: Cell, model: Path, tokens: int, target: Path, memory_bytes: int) -> list[str]:
        """Return the command that runs `cell`, its environment made if it is not there."""
        if cell.engine == TIERLINE:
            script = str(_ENGINES / "tierline_engine.py")
            return [sys.executable, script, str(model), str(tokens), str(target), str(memory_bytes)]
        asked = [str(model), str(tokens), str(target)]
        if cell.engine in _MODES:
            locked = [str(max(0, memory_bytes - _LLAMA_CPP_BYTES))] if cell.engine.endswith("locked") else []
            return [self._python("llamacpp"), str(_ENGINES / "llama_cpp_engine.py"), *asked,
                    *_MODES[cell.engine], *locked]  # fmt: skip
        script = str(_ENGINES / "transformers_engine.py")
        scratch = str(model.parent / f"{model.name}-{cell.engine.split()[0]}")
        if cell.engine == "airllm":
            return [self._python("airllm"), script, *asked, "airllm", scratch]
        if cell.engine == "accelerate offload":
            held_bytes = min(memory_bytes - _ACCELERATE_BYTES, file_of(model).stat().st_size)
            return [self._python("transformers"), script, *asked, "offload", str(max(0, held_bytes)), scratch]
        return [self._python("transformers"), script, *asked, "mmap"]

    def _python(self, name: str) -> str:
        home = self.folder / name
        python, ready = home / "bin" / "python", home / ".ready"
        if not ready.exists():
            print(f"installing {name}", flush=True)
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
            for packages in _INSTALLED[name]:
                subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
            ready.touch()
        return str(python)
