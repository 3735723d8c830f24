"""The models of the matrix: random weights in true shapes, written before and removed after."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from matrix.gguf_file import write_q8_0

_PACKED = {"int8": "int8:channel", "int4": "int4:group=32"}


@dataclass(frozen=True, slots=True)
class Models:
    """The folder that models are written to."""

    folder: Path

    def need(self, model: str, form: str) -> Path:
        """Return the model in a format (a directory, or a GGUF file for blocks), written if need be."""
        if form == "q4_k_m":
            return self._mixed(model, form)
        whole = self.folder / model
        if not (whole / "model.safetensors").exists() or not (whole / "config.json").exists():
            _say(f"writing {model} with random weights")
            partial = self.folder / f"{model}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            _run(sys.executable, "-m", "tierline.testing.random_model", model, str(partial))
            shutil.rmtree(whole, ignore_errors=True)
            partial.rename(whole)
        if form in _PACKED:
            return self._packed(whole, form)
        if form == "q8_0":
            return self._blocks(whole)
        return whole

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _packed(self, whole: Path, form: str) -> Path:
        packed = self.folder / f"{whole.name}-{form}"
        if not (packed / "model.safetensors").exists():
            _say(f"packing {whole.name} as {form}")
            tierline = "from tierline.cli.main import main; main()"
            _run(sys.executable, "-c", tierline, "pack", str(whole), str(packed), "--weights", _PACKED[form])
        return packed

    def _mixed(self, model: str, mix: str) -> Path:
        target = self.folder / f"{model}-{mix}.gguf"
        if not target.exists():
            _say(f"writing {model} as GGUF in {mix}")
            partial = target.with_suffix(".partial")
            _run(sys.executable, "-m", "tierline.testing.random_gguf", model, mix, str(partial))
            partial.rename(target)
        return target

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
