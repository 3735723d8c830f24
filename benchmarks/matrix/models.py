"""The models of the matrix: random weights in true shapes, written before and removed after."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from matrix.gguf_file import write_q8_0


@dataclass(frozen=True, slots=True)
class Models:
    """The folder that models are written to."""

    folder: Path

    def need(self, model: str, form: str) -> Path:
        """Return the model in a format (a directory, or a GGUF file for `q8_0`), written if need be."""
        whole = self.folder / model
        if not (whole / "model.safetensors").exists() or not (whole / "config.json").exists():
            _say(f"writing {model} with random weights")
            partial = self.folder / f"{model}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            _run(sys.executable, "-m", "tierline.testing.random_model", model, str(partial))
            shutil.rmtree(whole, ignore_errors=True)
            partial.rename(whole)
        if form == "int8":
            return self._packed(whole)
        if form == "q8_0":
            return self._blocks(whole)
        return whole

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _packed(self, whole: Path) -> Path:
        packed = self.folder / f"{whole.name}-int8"
        if not (packed / "model.safetensors").exists():
            _say(f"packing {whole.name} as int8")
            tierline = "from tierline.cli.main import main; main()"
            _run(sys.executable, "-c", tierline, "pack", str(whole), str(packed), "--weights", "int8:channel")
        return packed

    def _blocks(self, whole: Path) -> Path:
        target = self.folder / f"{whole.name}-q8_0.gguf"
        if not target.exists():
            _say(f"writing {whole.name} as GGUF")
            write_q8_0(whole, target)
        return target


def file_of(model: Path) -> Path:
    """Return the file that holds the weights."""
    return model if model.is_file() else model / "model.safetensors"


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _say(text: str) -> None:
    print(text, flush=True)
