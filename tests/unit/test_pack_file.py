"""The packed file itself: legal, ordered, aligned, checksummed, described; hostile metadata is refused."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from tierline.errors import FaultError, InputError
from tierline.formats.parse import parse_format
from tierline.models.checkpoint import open_checkpoint
from tierline.models.open import open_model
from tierline.models.packed_forms import INT4, INT8
from tierline.models.packed_layout import PADDING_PREFIX, TENSORS_KEY, VERSION_KEY
from tierline.probe.order import execution_order
from tierline.run.pack.pack import pack
from tierline.run.source import open_source
from tierline.testing.tiny import write_llama

PANEL_BYTES = 3_000  # several panels even in a tiny model


def nothing(*_: object) -> None:
    """Ignore progress."""


def packed(source: Path, folder: Path, weights: str = "int8:channel") -> Path:
    pack(open_source(source), folder, weights, nothing, panel_bytes=PANEL_BYTES)
    return folder


@pytest.fixture(scope="module")
def int4(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tiny_llama, tmp_path_factory.mktemp("packs") / "int4", "int4:group=32")


def test_the_safetensors_library_reads_it_and_every_checksum_holds(int4: Path) -> None:
    file = int4 / "model.safetensors"
    content = file.read_bytes()
    tensors = open_checkpoint(int4).tensors
    with safe_open(file, framework="pt") as opened:
        assert set(opened.keys()) > set(tensors)
        metadata = opened.metadata()
        assert (metadata["format"], metadata["tierline.layout"], metadata["tierline.version"]) == (
            "pt", "panels", "1",
        )  # fmt: skip
        assert metadata["tierline.cpu"] == torch.backends.cpu.get_cpu_capability()
        for name, tensor in tensors.items():
            whole = content[tensor.offset : tensor.offset + tensor.footprint_bytes]
            assert opened.get_tensor(name).contiguous().view(torch.uint8).numpy().tobytes() == whole
            panel_bytes = tensor.footprint_bytes // tensor.shape[0] * tensor.panel_rows
            crcs = [
                zlib.crc32(whole[at : at + panel_bytes]).to_bytes(4)
                for at in range(0, len(whole), panel_bytes)
            ]
            assert b"".join(crcs) == tensor.panel_crc32
    assert any(len(t.panel_crc32) > 8 for t in tensors.values() if t.format == INT4)
    assert len(content) % 4096 == 0


def test_tensors_are_aligned_and_in_the_order_of_a_decode_step(tiny_llama: Path, int4: Path) -> None:
    tensors = sorted(open_checkpoint(int4).tensors.values(), key=lambda t: t.offset)
    assert all(t.offset % 4096 == 0 for t in tensors)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_llama)
    assert [t.name for t in tensors] == [f"{name}.weight" for name in execution_order(model)]


def test_the_description_has_the_packed_formats_and_bytes(tiny_llama: Path, int4: Path) -> None:
    stored = {p.name: p.tensor for p in open_model(str(int4)).tensors()}
    assert stored["model.layers.1.mlp.up_proj.weight"].stored == INT4
    assert stored["lm_head.weight"].stored == INT8  # 997 rows are no multiple of 16
    assert stored["model.embed_tokens.weight"].stored == "bf16"
    counted = sum(parse_format(t.stored).footprint_bytes(t.shape) for t in stored.values())
    assert counted == open_checkpoint(int4).footprint_bytes
    assert counted < 0.6 * open_checkpoint(tiny_llama).footprint_bytes
    assert parse_format(INT8).footprint_bytes((7, 16)) == 7 * 18
    assert parse_format(INT4).footprint_bytes((16, 64)) == 16 * (32 + 2 * 4)


def test_keep_keeps_every_bit(tiny_llama: Path, tmp_path: Path) -> None:
    kept = packed(tiny_llama, tmp_path / "kept", "keep")
    with (
        safe_open(tiny_llama / "model.safetensors", framework="pt") as before,
        safe_open(kept / "model.safetensors", framework="pt") as after,
    ):
        names = [name for name in after.keys() if not name.startswith(PADDING_PREFIX)]  # noqa: SIM118
        assert sorted(names) == sorted(before.keys())
        for name in names:
            assert torch.equal(before.get_tensor(name), after.get_tensor(name))
    AutoModelForCausalLM.from_pretrained(kept)  # transformers takes it as its own


def test_fp32_sources_are_packed_and_the_rest_is_bf16(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "fp32", dtype="float32", vocab_size=32, num_hidden_layers=1)
    formats = {t.name: t.format for t in open_checkpoint(packed(source, tmp_path / "out")).tensors.values()}
    assert set(formats.values()) == {INT8, "bf16"}
    assert formats["model.norm.weight"] == "bf16"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def edited(folder: Path, into: Path, change: Any) -> Path:
    """Write the packed file again with its header changed in place (spaces make up the length)."""
    content = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    entries = json.loads(header["__metadata__"][TENSORS_KEY])
    change(header, entries)
    header["__metadata__"][TENSORS_KEY] = json.dumps(entries)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 4096)
    into.mkdir()
    (into / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return into


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("panel_rows", 0, "panel_rows"),
        ("panel_rows", 161, "panel_rows"),
        ("panel_rows", 17, "multiple of 64"),
        ("shape", [160, 96], "takes"),
        ("shape", [161, 64], "shape"),
        ("shape", [160, -64], "shape"),
        ("shape", [2**59, 2**59], "shape|elements"),
        ("format", INT8, "takes"),
        ("format", "bf16", "format"),
        ("crc32", "00", "crc32"),
        ("crc32", "zz" * 8, "crc32"),
    ],
)
def test_metadata_that_cannot_be_true_are_refused(
    int4: Path, tmp_path: Path, field: str, value: object, match: str
) -> None:
    def change(_: dict[str, Any], entries: dict[str, Any]) -> None:
        entries[UP][field] = value

    with pytest.raises(InputError, match=match):
        open_checkpoint(edited(int4, tmp_path / "edited", change))


def test_another_version_and_missing_entries_are_refused(int4: Path, tmp_path: Path) -> None:
    def newer(header: dict[str, Any], _: dict[str, Any]) -> None:
        header["__metadata__"][VERSION_KEY] = "2"

    def fewer(_: dict[str, Any], entries: dict[str, Any]) -> None:
        del entries[UP]

    with pytest.raises(InputError, match=r"version '2'.*pack the model again"):
        open_checkpoint(edited(int4, tmp_path / "newer", newer))
    with pytest.raises(InputError, match="not in both"):
        open_checkpoint(edited(int4, tmp_path / "fewer", fewer))


def test_a_directory_that_holds_a_model_is_not_overwritten(tiny_llama: Path, int4: Path) -> None:
    with pytest.raises(InputError, match="holds a model already"):
        packed(tiny_llama, int4)
    with pytest.raises(InputError, match="packed already"):
        packed(int4, int4.parent / "again")
    with pytest.raises(InputError, match=r"int8:channel, .*int4:group=32, .*mxfp8, .*keep"):
        packed(tiny_llama, int4.parent / "other", "int3")


def test_a_source_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "source", vocab_size=32, num_hidden_layers=1)

    def touch(*_: int) -> None:
        (source / "model.safetensors").touch()

    with pytest.raises(FaultError, match="was changed while it was packed"):
        pack(open_source(source), tmp_path / "out", "keep", touch, panel_bytes=PANEL_BYTES)
    assert not (tmp_path / "out" / "model.safetensors").exists()
