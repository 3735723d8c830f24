"""Models that look at images: the bits of transformers, and nothing of what looks is read while decoding."""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText

import tierline
from tierline.errors import BudgetError, InputError
from tierline.run.direct_io import DirectFile, Extract
from tierline.run.images.files import check_images, read_image
from tierline.run.report import RunReport
from tierline.run.request import Request
from tierline.run.session import Prepared, Session
from tierline.run.source import open_source
from tierline.testing.tiny_images import SEEING, write_image, write_seeing

pytestmark = pytest.mark.usefixtures("brief_samples")
REQUEST = Request("t3 t141 t59 t26 t5", new=7, raw=True)
OF_IMAGES = ("vision", "visual", "connector", "projector")


def nothing(*_: object) -> None:
    """Ignore progress and text."""


@contextmanager
def prepared(path: Path, request: Request, resident: int | None) -> Iterator[tuple[Session, Prepared]]:
    with Session(open_source(path), resident=resident, memory=None) as session:
        yield session, session.prepare(request, nothing)


def smallest(path: Path, request: Request) -> int:
    with (
        Session(open_source(path), resident=1, memory=None) as session,
        pytest.raises(BudgetError) as refused,
    ):
        session.prepare(request, nothing)
    return int(str(refused.value).rpartition("--resident ")[2].partition("B")[0])


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image(tmp_path_factory.mktemp("images") / "wide.png", 61, 37)


# The quick one is cut into pieces, which is the most that a family does to an image; CI runs the others.
KINDS = [
    pytest.param(family, dtype, marks=() if (family, dtype) == ("smolvlm", "bfloat16") else pytest.mark.slow)
    for family in SEEING
    for dtype in ("bfloat16", "float32")
]


@pytest.mark.parametrize(("family", "dtype"), KINDS)
def test_any_budget_gives_the_bits_of_transformers_and_reads_what_was_planned(
    family: str, dtype: str, image: Path, tmp_path: Path
) -> None:
    path = write_seeing(tmp_path, family, dtype=dtype)
    request = replace(REQUEST, images=(image,))
    theirs: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=getattr(torch, dtype))
    for budget in (None, smallest(path, request)):
        with prepared(path, request, budget) as (session, ready), torch.inference_mode():
            report = session.execute(ready, nothing)
            assert report.weights_resident_peak_bytes <= (budget or 2**30)
            assert report.weights_streamed_bytes > 0 or budget is None
            _assert_reads_are_planned(report)
            inputs = dict(ready.seen)
            assert torch.equal(session.engine.model(**inputs).logits, theirs(**inputs).logits)
            wanted = theirs.generate(**inputs, max_new_tokens=REQUEST.new, do_sample=False)
        assert list(report.token_ids) == wanted[0, ready.ids.shape[1] :].tolist()


def _assert_reads_are_planned(report: RunReport) -> None:
    # rows of the embedding are planned by their mean: one may straddle a sector
    assert report.prompt_read_bytes == pytest.approx(report.prediction.prompt_read_bytes, rel=0.02)
    assert report.read_bytes_per_token == pytest.approx(report.prediction.read_bytes, rel=0.02, abs=512)


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_seeing(tmp_path_factory.mktemp("smolvlm"), "smolvlm")


def test_what_looks_is_read_once_per_prompt_and_never_while_decoding(
    smolvlm: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, after_first, original = Counter[str](), list[str](), DirectFile.read
    arrived: list[str] = []

    def counting(file: DirectFile, extract: Extract, into: memoryview) -> memoryview:
        reads[extract.name] += 1
        after_first.extend([extract.name] if arrived else [])
        return original(file, extract, into)

    monkeypatch.setattr(DirectFile, "read", counting)
    monkeypatch.setattr("tierline.run.native_reads.native_reads", lambda: None)  # C reads unseen
    request = replace(REQUEST, images=(image,), new=9)
    with prepared(smolvlm, request, smallest(smolvlm, request)) as (session, ready):
        report = session.execute(ready, arrived.append)
        assert session.engine.weights is not None
        pinned = session.engine.weights.plan.placement.pinned
        planned = tierline.plan(smolvlm, "this", images=1).phases[0]
        looked = sum(tile.footprint_bytes for tile in session.engine.weights.plan.prelude)
    with safe_open(smolvlm / "model.safetensors", "pt") as file:
        stored = {name for name in file.keys() if any(part in name for part in OF_IMAGES)}  # noqa: SIM118
    of_images = {name: count for name, count in reads.items() if any(part in name for part in OF_IMAGES)}
    assert {name.partition("[")[0] for name in of_images} == stored
    assert set(of_images.values()) == {1}
    assert not any(part in unit.name for unit in pinned for part in OF_IMAGES)
    assert not any(part in name for name in after_first for part in OF_IMAGES)
    assert len(after_first) > report.weights_streamed_bytes / 2**20  # text is read, again and again
    assert planned.name == "vision"
    assert looked == planned.weight_read_bytes


def test_two_images_and_their_order_matter(smolvlm: Path, image: Path, tmp_path: Path) -> None:
    other = write_image(tmp_path / "tall.jpg", 43, 53, seed=1)
    answers = set()
    for images in ((image, other), (other, image)):
        with prepared(smolvlm, replace(REQUEST, images=images), None) as (session, ready):
            marks = int((ready.ids == 300).sum())
            answers.add((session.execute(ready, nothing).token_ids, marks))
    assert len({tokens for tokens, _ in answers}) == 2
    assert {marks for _, marks in answers} == {2 * 5 * 4}  # 2 x 2 pieces and the whole, 4 tokens each


@pytest.mark.slow
def test_images_of_a_model_that_places_them_are_told_apart(image: Path, tmp_path: Path) -> None:
    path = write_seeing(tmp_path, "qwen2_vl")
    two = replace(REQUEST, images=(image, image))
    theirs: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.bfloat16)
    with prepared(path, two, None) as (session, ready), torch.inference_mode():
        assert len(session.execute(ready, nothing).token_ids) > 0
        assert torch.equal(session.engine.model(**ready.seen).logits, theirs(**ready.seen).logits)
    beside = replace(two, text="t3 <|image_pad|><|image_pad|>")
    with Session(open_source(path), resident=None, memory=None) as session:  # noqa: SIM117 - two steps
        with pytest.raises(InputError, match="2 images stand in 1 places"):
            session.prepare(beside, nothing)


def test_without_images_it_answers_text_and_holds_nothing_that_looks(smolvlm: Path) -> None:
    with prepared(smolvlm, REQUEST, None) as (session, ready):
        assert len(session.execute(ready, nothing).token_ids) > 0
        assert session.engine.weights is not None
        assert not session.engine.weights.plan.prelude
        assert session.engine.weights.staging is None
        look: Any = session.engine.model.get_image_features
        with pytest.raises(InputError, match="loaded for text alone"), torch.inference_mode():
            look(torch.ones(1, 1, 3, 28, 28))


def _png(width: int, height: int, body: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is none of PNG, JPEG"),
        (b"GIF89a", "is none of|is damaged"),
        (b"%PDF-1.7 not an image", "is none of"),
        (_png(8_000, 9_000, zlib.compress(b"\0" * 99)), r"8,000 x 9,000 pixels, more than 67,108,864"),
        (_png(10_000, 10_000, zlib.compress(b"\0" * 99)), "exceeds limit .* Make it smaller"),
        (_png(30_000, 30_000, zlib.compress(b"\0" * 99)), "exceeds limit .* Make it smaller"),
        (_png(40_000, 1, zlib.compress(b"\0" * 99)), "a side of 32,768"),
        (_png(61, 37, zlib.compress(b"\0" * 99)), "is damaged"),
        (_png(61, 37, b"no stream at all"), "is damaged"),
    ],
)
def test_files_that_are_no_image_are_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=why):
        read_image(path)


def test_an_image_cut_short_anywhere_is_refused_or_whole(image: Path, tmp_path: Path) -> None:
    whole, path = image.read_bytes(), tmp_path / "cut.png"
    refused = 0
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"cut\.png"):
            read_image(path)
        refused += 1
    assert refused > 10


def test_a_model_of_text_is_not_shown_images(tiny_llama: Path, image: Path, smolvlm: Path) -> None:
    with pytest.raises(InputError, match="a model of text alone"):
        check_images(open_source(tiny_llama), (image,))
    with pytest.raises(InputError, match="no such file"):
        check_images(open_source(smolvlm), (image.with_name("none.png"),))
    with pytest.raises(InputError, match="65 images: want at most 64"):
        check_images(open_source(smolvlm), (image,) * 65)
