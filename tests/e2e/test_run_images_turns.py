"""Images in conversations, saved sessions, files of prompts and comparisons: transformers' own answers."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer

from tierline.errors import InputError
from tierline.run.conversation import Conversation
from tierline.run.direct_io import DirectFile, Extract
from tierline.run.images.expected import expect_images
from tierline.run.process_memory import peak_resident_bytes, reset_peak, resident_bytes
from tierline.run.prompts import Answers, read_prompts
from tierline.run.request import Request
from tierline.run.session import Session
from tierline.run.source import open_source
from tierline.run.throughput import serve_prompts
from tierline.testing.tiny_images import chat_template, pil_processor, write_image, write_seeing

OF_IMAGES = ("vision", "visual", "connector", "projector")
FIRST = Request("t3 t141 t59", new=5)
Turn = Mapping[str, Any]


def nothing(*_: object) -> None:
    """Ignore progress and text."""


@dataclass(frozen=True)
class Theirs:
    """transformers' own processor and model, on the same files."""

    folder: Path
    family: str

    def answer(self, turns: Sequence[Turn], images: Sequence[Path], new: int) -> list[int]:
        tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)
        processor = pil_processor(self.family, tokenizer)
        text = tokenizer.apply_chat_template(
            list(turns), chat_template=chat_template(self.family), add_generation_prompt=True, tokenize=False
        )
        shown = [Image.open(path).convert("RGB") for path in images]
        inputs = processor(text=text, images=shown or None, return_tensors="pt")
        model: Any = AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32)
        with torch.inference_mode():
            made = model.generate(**inputs, max_new_tokens=new, do_sample=False)
        found: list[int] = made[0, inputs["input_ids"].shape[1] :].tolist()
        return found


def turn(role: str, text: str, images: int = 0) -> Turn:
    shown = [{"type": "image"} for _ in range(images)]
    return {"role": role, "content": [*shown, {"type": "text", "text": text}]}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return write_image(folder / "wide.png", 61, 37), write_image(folder / "tall.jpg", 43, 53, seed=1)


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_seeing(tmp_path_factory.mktemp("smolvlm"), "smolvlm", dtype="float32", chat=True)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every read of a tensor that looks at images."""
    reads, original = list[str](), DirectFile.read

    def noting(file: DirectFile, extract: Extract, into: memoryview) -> memoryview:
        reads.extend([extract.name] if any(part in extract.name for part in OF_IMAGES) else [])
        return original(file, extract, into)

    monkeypatch.setattr(DirectFile, "read", noting)
    monkeypatch.setattr("tierline.run.native_reads.native_reads", lambda: None)  # C reads unseen
    return reads


@contextmanager
def conversation(
    path: Path, first: Request, *, context: int = 400, saved: bool = False
) -> Iterator[tuple[Conversation, list[int]]]:
    """Lend a conversation, and the number of tokens that each of its passes computes."""
    with Session(open_source(path), resident=None, memory=None) as session:
        made, lengths = Conversation(session, context, nothing, first, saved=saved), list[int]()
        session.engine.model.register_forward_pre_hook(
            lambda _, __, named: lengths.append(named["input_ids"].shape[1]), with_kwargs=True
        )
        yield made, lengths


@pytest.mark.parametrize(
    "family",
    [
        "smolvlm",
        pytest.param("llava", marks=pytest.mark.slow),
        pytest.param("qwen2_vl", marks=pytest.mark.slow),
    ],
)
def test_images_in_any_turn_give_the_answers_of_transformers(
    family: str, smolvlm: Path, pictures: tuple[Path, Path], looks: list[str], tmp_path: Path
) -> None:
    path = smolvlm if family == "smolvlm" else write_seeing(tmp_path, family, dtype="float32", chat=True)
    theirs, said = Theirs(path, family), list[Turn]()
    with conversation(path, replace(FIRST, images=pictures[:1])) as (made, lengths):
        for text, images in (("t3 t141", pictures[:1]), ("t59 t5", ()), ("t26", pictures[1:])):
            report = made.say(Request(text, new=5, images=images), nothing)
            said.append(turn("user", text, len(images)))
            shown = pictures if text == "t26" else pictures[:1]
            assert list(report.token_ids) == theirs.answer(said, shown, 5)
            said.append(turn("assistant", report.text))
            assert bool(looks) == bool(images), "what looks is read for images, and for nothing else"
            assert len(looks) == len(set(looks))
            assert images or lengths[0] < 20, "the second turn computed the first one again"
            looks.clear()  # not before the first turn: some of it was read ahead
            lengths.clear()


@pytest.mark.slow
def test_a_session_keeps_what_an_image_was_without_the_image(
    smolvlm: Path, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    copy, file = tmp_path / "gone.png", tmp_path / "s.session"
    copy.write_bytes(pictures[0].read_bytes())
    first = replace(FIRST, images=(copy,))
    with conversation(smolvlm, first, saved=True) as (made, _):
        report = made.say(first, nothing)
        made.save(file)
    copy.unlink()
    second = Request("t9 t10", new=5)
    with conversation(smolvlm, second, saved=True) as (made, lengths):
        assert made.restore(file) > 4 * 5
        answer = made.say(second, nothing)
        assert lengths[0] < 20
    said = [turn("user", first.text, 1), turn("assistant", report.text), turn("user", second.text)]
    assert list(answer.token_ids) == Theirs(smolvlm, "smolvlm").answer(said, pictures[:1], 5)
    third = replace(second, images=pictures[1:])
    with conversation(smolvlm, third, saved=True) as (made, _):
        made.restore(file)
        answer = made.say(third, nothing)
    said[-1] = turn("user", second.text, 1)
    assert list(answer.token_ids) == Theirs(smolvlm, "smolvlm").answer(said, pictures, 5)


@pytest.mark.slow
def test_raw_turns_do_not_take_one_image_for_another(smolvlm: Path, pictures: tuple[Path, Path]) -> None:
    requests = [Request("t3", new=5, raw=True, images=(picture,)) for picture in pictures]
    with conversation(smolvlm, requests[0]) as (made, _):
        together = [made.say(request, nothing).token_ids for request in requests]
    with conversation(smolvlm, requests[1]) as (anew, _):
        assert anew.say(requests[1], nothing).token_ids == together[1] != together[0]


@pytest.mark.slow
def test_what_there_is_no_room_for_is_refused_and_changes_nothing(
    smolvlm: Path, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    with conversation(smolvlm, replace(FIRST, images=pictures[:1])) as (made, _):
        with pytest.raises(InputError, match=r"room was kept for .* \(1 images\): show fewer"):
            made.say(replace(FIRST, images=pictures), nothing)
        large = tmp_path / "large.png"
        Image.new("1", (4000, 4000)).save(large)
        with pytest.raises(InputError, match="4,000 x 4,000 pixels, more than 12,845,056"):
            made.say(replace(FIRST, images=(large,)), nothing)
        found = made.say(replace(FIRST, images=pictures[:1]), nothing).token_ids
        assert list(found) == Theirs(smolvlm, "smolvlm").answer(
            [turn("user", FIRST.text, 1)], pictures[:1], 5
        )
    with conversation(smolvlm, FIRST) as (made, _), pytest.raises(InputError, match="begin it with --image"):
        made.say(replace(FIRST, images=pictures[:1]), nothing)
    with (
        pytest.raises(InputError, match="take more than the 11 tokens"),
        conversation(smolvlm, replace(FIRST, images=pictures[:1]), context=16),
    ):
        pass


@pytest.mark.slow
def test_a_model_that_places_images_saves_no_session_of_them(
    pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    path = write_seeing(tmp_path, "qwen2_vl", chat=True)
    first = replace(FIRST, images=pictures[:1])
    with pytest.raises(InputError, match="counts positions by image"), conversation(path, first, saved=True):
        pass


@pytest.mark.slow
def test_expected_images_are_the_largest_that_the_context_holds(tmp_path: Path) -> None:
    path = write_seeing(tmp_path, "qwen2_vl")
    config = json.loads((path / "preprocessor_config.json").read_text())
    config["size"] = {"shortest_edge": 14**2, "longest_edge": 2**21}
    (path / "preprocessor_config.json").write_text(json.dumps(config))
    with Session(open_source(path), resident=None, memory=None) as session:
        found = [expect_images(session.looker, count, 410) for count in (1, 2)]
    # one token for 14 x 14 pixels, after rounding: 512 x 512 would take more than 1,300
    assert [(len(e.looked.texts), e.most_pixels) for e in found] == [(1, 256**2), (2, 128**2)]
    assert found[1].looked.pixels == 2 * (128 // 14 * 2) ** 2 * 3 * 2 * 7 * 7


@pytest.mark.slow
def test_what_images_take_while_they_are_made_ready_is_part_of_the_projection(
    smolvlm: Path, tmp_path: Path
) -> None:
    large = write_image(tmp_path / "large.png", 3584, 3584)
    with Session(open_source(smolvlm), resident=None, memory=2**32) as session:
        made = Conversation(session, 400, nothing, replace(FIRST, images=(large,)))
        reset_peak()
        before_bytes = resident_bytes()
        made._look((large,))
        assert peak_resident_bytes() - before_bytes > 3 * 3584**2
        assert peak_resident_bytes() <= made.prediction.peak_bytes


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tierline", "run", *arguments], capture_output=True, text=True, input=stdin,
        timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_chat_takes_images_by_the_line(smolvlm: Path, pictures: tuple[Path, Path], tmp_path: Path) -> None:
    lines = f"t3 t141\n/image {tmp_path / 'none.png'}\nt5\n/image {pictures[1]}\nt26\n"
    done = run(
        str(smolvlm), "--chat", "--image", str(pictures[0]), "--new", "5", "--context", "400", stdin=lines
    )
    assert done.returncode == 0, done.stderr
    assert "none.png: no such file" in done.stderr
    answers = done.stdout.splitlines()
    tokenizer = AutoTokenizer.from_pretrained(smolvlm)
    said = [turn("user", "t3 t141", 1), turn("assistant", answers[0]), turn("user", "t26", 1)]
    expected = Theirs(smolvlm, "smolvlm").answer(said, pictures, 5)
    assert answers[1].strip() == tokenizer.decode(expected, skip_special_tokens=True)
    shown = ("--image", str(pictures[0]), "--session", str(tmp_path / "s"))
    as_json = run(str(smolvlm), "t3", *shown, "--new", "5", "--context", "400", "--json")
    assert as_json.returncode == 0, as_json.stderr
    assert len(json.loads(as_json.stdout)["token_ids"]) == 5


def test_prompts_with_and_without_images_share_passes(
    smolvlm: Path, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    for picture in pictures:
        (tmp_path / picture.name).write_bytes(picture.read_bytes())
    names = [picture.name for picture in pictures]
    lines: list[dict[str, Any]] = [
        {"prompt": "t3 t4 t5", "image": names[0]},
        {"prompt": "t9 t10"},
        {"messages": [{"role": "user", "content": "t17"}], "image": names[::-1]},
    ]
    file, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prompts = read_prompts(file)
    with (
        Answers(out, prompts) as answers,
        Session(open_source(smolvlm), resident=None, memory=None) as opened,
    ):
        served = serve_prompts(
            opened, prompts, answers, Request("", new=6), batch=None,
            progress=nothing, planned=nothing, served=nothing,
        )  # fmt: skip
    assert (served.sequences, served.batch, served.passes) == (3, 3, 5)
    found = {line["index"]: line["token_ids"] for line in map(json.loads, out.read_text().splitlines())}
    theirs = Theirs(smolvlm, "smolvlm")
    shown = (pictures[:1], (), pictures[::-1])
    for i, (prompt, images) in enumerate(zip(prompts, shown, strict=True)):
        assert found[i] == theirs.answer([turn("user", prompt.text, len(images))], images, 6)
    (tmp_path / names[0]).write_bytes(pictures[1].read_bytes())
    with pytest.raises(InputError, match="something else than answers to these prompts"):
        Answers(out, read_prompts(file))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"prompt": "t3", "image": "none.png"}, "prompts.jsonl:1: .*none.png: no such image"),
        ({"prompt": "t3", "image": 7}, '"image" is neither a file nor a list of files'),
        ({"prompt": "t3", "image": ["a\0b"]}, '"image" is neither a file nor a list of files'),
        ({"prompt": "t3", "image": ["x"] * 65}, "65 images: want at most 64"),
    ],
)
def test_lines_whose_images_are_none_are_refused(tmp_path: Path, line: object, why: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps(line))
    with pytest.raises(InputError, match=why):
        read_prompts(file)


@pytest.mark.slow
def test_a_comparison_shows_what_the_prompt_read(smolvlm: Path, pictures: tuple[Path, Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tierline", "compare", str(smolvlm), "t3", "--image", str(pictures[0]),
         "--new", "6", "--resident", "1MiB", "--json"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["quantity"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["first token rate"]["planned"] is None
    assert rows["first token rate"]["measured"] > 0
    assert rows["prompt bytes"]["planned"] == pytest.approx(rows["prompt bytes"]["measured"], rel=0.02)
    assert rows["prompt bytes"]["measured"] > rows["link:disk bytes per token"]["measured"]
