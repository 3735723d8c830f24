"""Many prompts in one pass: answered as one by one, within the budget, and each only once."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tierline.errors import FaultError, InputError
from tierline.run.prompts import Answers, read_prompts
from tierline.run.request import Request
from tierline.run.room import Room
from tierline.run.session import Session
from tierline.run.source import open_source
from tierline.run.throughput import MOST_SEQUENCES, Served, most_sequences, serve_prompts
from tierline.testing.tiny import write_llama

TEXTS = ["t3 t141 t59", "t26", "t5 t3 t141 t59 t26 t5 t3", "t9 t9", "t77 t12 t30 t8"]


def nothing(*_: object) -> None:
    """Ignore progress."""


def write_prompts(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"prompt": text, "id": i}) + "\n" for i, text in enumerate(texts)))
    return path


def serve(model: Path, prompts: Path, out: Path, *, batch: int | None = None, new: int = 12) -> Served:
    read = read_prompts(prompts)
    with Answers(out, read) as answers, Session(open_source(model), resident=None, memory=None) as session:
        request = Request("", new=new, raw=True)
        return serve_prompts(
            session, read, answers, request, batch=batch, progress=nothing, planned=nothing, served=nothing
        )


def answered(out: Path) -> dict[int, list[int]]:
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    found = {line["index"]: line["token_ids"] for line in lines}
    assert len(found) == len(lines), "a prompt was answered twice"
    assert all(line["id"] == line["index"] for line in lines)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in fp32: what a batch changes of the rounding does not change a choice."""
    return write_llama(tmp_path_factory.mktemp("fp32"), dtype="float32")


@pytest.fixture(scope="module")
def alone(model: Path) -> dict[int, list[int]]:
    """What the model answers each of TEXTS, asked one by one."""
    return {i: _alone(model, text) for i, text in enumerate(TEXTS)}


@pytest.mark.parametrize("batch", [None, 1, 2])
def test_a_batch_answers_as_one_by_one(
    model: Path, alone: dict[int, list[int]], tmp_path: Path, batch: int | None
) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", TEXTS)
    served = serve(model, prompts, tmp_path / "out.jsonl", batch=batch)
    found = answered(tmp_path / "out.jsonl")
    assert found == alone
    assert served.batch == (5 if batch is None else batch)
    assert served.tokens == sum(len(ids) - 1 for ids in found.values())
    assert served.passes >= -(-served.tokens // served.batch)
    assert [row.quantity for row in served.rows][2] == "tokens per pass"


def _alone(model: Path, text: str) -> list[int]:
    with Session(open_source(model), resident=None, memory=None) as session:
        report = session.answer(Request(text, new=12, raw=True), progress=nothing, emit=nothing)
        return list(report.token_ids)


def test_a_run_goes_on_after_what_is_whole(model: Path, tmp_path: Path) -> None:
    prompts, out = write_prompts(tmp_path / "prompts.jsonl", TEXTS), tmp_path / "out.jsonl"
    serve(model, prompts, out, batch=2)
    whole, lines = answered(out), out.read_text().splitlines(keepends=True)
    out.write_text(lines[0] + lines[1] + lines[2][:-9])  # killed in the middle of a line
    served = serve(model, prompts, out, batch=2)
    assert (served.done_before, served.sequences) == (2, 3)
    assert answered(out) == whole
    again = serve(model, prompts, out)
    assert (again.done_before, again.sequences, again.rows) == (5, 0, ())


def test_killed_for_real_it_goes_on(model: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", [f"t{i} t{i + 1}" for i in range(3, 11)])
    out = tmp_path / "out.jsonl"
    program = [sys.executable, "-m", "tierline", "run", str(model), "--prompts", str(prompts), "-o", str(out)]
    options = ["--raw", "--new", "60", "--batch", "1", "--json"]
    killed = subprocess.Popen([*program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not (out.exists() and out.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = subprocess.run([*program, *options], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["done_before"] >= 1
    assert report["done_before"] + report["sequences"] == 8
    assert sorted(answered(out)) == list(range(8))


def test_as_many_run_together_as_the_budget_holds(model: Path) -> None:
    room = Room(prompt_tokens=400, new=100)
    with Session(open_source(model), resident=None, memory=2**38) as session:
        assert most_sequences(session, room) == MOST_SEQUENCES
    with Session(open_source(model), resident=None, memory=2**34) as plenty:
        one = 2**34 - plenty.engine.spare_bytes(room)
    each = room.kv_held_bytes(open_source(model).model, "fp32")
    with Session(open_source(model), resident=None, memory=one + 10 * each + 2**24) as session:
        few = most_sequences(session, room)
        assert 1 <= few < MOST_SEQUENCES


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hello", r"prompts.jsonl:2: is not JSON"),
        ("[1]", r"prompts.jsonl:2: want an object"),
        ('{"prompt": 7}', r"prompts.jsonl:2: want"),
        ('{"messages": []}', r"prompts.jsonl:2: want"),
        ('{"messages": [{"role": "user"}]}', r"prompts.jsonl:2: want"),
        ('{"prompt": "x", "id": [1]}', r'prompts.jsonl:2: "id" is neither'),
        ("[" * 100_000, r"prompts.jsonl:2: is not JSON"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(InputError, match=message):
        read_prompts(path)


def test_other_answers_are_not_written_over(tmp_path: Path) -> None:
    prompts, out = read_prompts(write_prompts(tmp_path / "a.jsonl", ["t1", "t2"])), tmp_path / "out.jsonl"
    others = read_prompts(write_prompts(tmp_path / "b.jsonl", ["t3", "t4"]))
    with Answers(out, prompts) as answers:
        answers.write([(prompts[0], {"text": "yes"})])
    before = out.read_bytes()
    with pytest.raises(InputError, match="something else than answers to these prompts"):
        Answers(out, others)
    assert out.read_bytes() == before


def test_a_full_disk_keeps_what_was_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    prompts = read_prompts(write_prompts(tmp_path / "a.jsonl", ["t1", "t2"]))
    with Answers(tmp_path / "out.jsonl", prompts) as answers:
        answers.write([(prompts[0], {"text": "yes"})])

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(FaultError, match="No space left"):
            answers.write([(prompts[1], {"text": "no"})])
    assert 0 in answers.done
    assert 1 not in answers.done


def test_options_that_do_not_go_together_are_refused(model: Path) -> None:
    program = [sys.executable, "-m", "tierline", "run", str(model)]
    for options in (
        ["--batch", "3", "hi"],
        ["--prompts", "x.jsonl"],
        ["-o", "x", "--prompts", "y", "text"],
        ["--chat", "--prompts", "y", "-o", "x"],
    ):
        done = subprocess.run([*program, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "--prompts" in done.stderr
