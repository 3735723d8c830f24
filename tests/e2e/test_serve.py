"""The chat-completions server, as the openai client and a hostile one see it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from transformers import AutoModelForCausalLM, AutoTokenizer

from tierline.run.session import Session
from tierline.run.source import open_source
from tierline.serve.app import create_app
from tierline.serve.server import load
from tierline.serve.service import Service
from tierline.testing.tiny import write_llama
from tierline.web.serve import serve_app

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "t3 {{ m.content }} {% endfor %}t4"
)
CONTEXT, BATCH, END = 512, 3, 7


def nothing(*_: object) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class Served:
    folder: Path
    address: str
    faults: list[BaseException]

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}v1", api_key="none", max_retries=0, timeout=60)

    def ask(self, text: str, **changes: Any) -> Any:
        fields: dict[str, Any] = {"temperature": 0, "max_tokens": 9, "model": self.folder.name, **changes}
        messages = fields.pop("messages", [{"role": "user", "content": text}])
        return self.client.chat.completions.create(messages=messages, **fields)

    def metric(self, name: str, **labels: str) -> float:
        text = httpx.get(f"{self.address}metrics").raise_for_status().text
        samples = (s for family in text_string_to_metric_families(text) for s in family.samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


@contextmanager
def serving(folder: Path, resident: int) -> Iterator[Served]:
    faults: list[BaseException] = []
    ready, end = threading.Event(), threading.Event()
    found: list[str] = []

    def announce(address: str) -> None:
        found.append(address)
        ready.set()

    with Session(open_source(folder), resident=resident, memory=None) as session:
        limits = load(session, batch=BATCH, context=CONTEXT, new=40, progress=nothing)
        app = create_app(Service(folder.name, session, limits, faults.append), ("127.0.0.1",))
        ended = lambda: end.is_set() or bool(faults)  # noqa: E731 - what the server asks
        thread = threading.Thread(
            target=serve_app, args=(app, "127.0.0.1", 0, announce), kwargs={"ended": ended}, daemon=True
        )
        thread.start()
        assert ready.wait(30)
        try:
            yield Served(folder, found[0], faults)
        finally:
            end.set()
            thread.join(30)
            assert not thread.is_alive()


def checkpoint(folder: Path) -> Path:
    write_llama(folder, dtype="float32", eos_token_id=END)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(checkpoint(tmp_path_factory.mktemp("served")), 900_000) as found:
        yield found


@pytest.fixture(scope="module")
def reference(served: Served) -> Any:
    return AutoModelForCausalLM.from_pretrained(served.folder, dtype="float32")


def expected(served: Served, reference: Any, text: str, new: int = 9) -> str:
    tokenizer = AutoTokenizer.from_pretrained(served.folder)
    ids = tokenizer(f"t3 {text} t4", return_tensors="pt")
    made = reference.generate(**ids, max_new_tokens=new, do_sample=False)
    answer = made[0, ids["input_ids"].shape[1] :].tolist()
    return str(tokenizer.decode(answer[:-1] if answer[-1] == END else answer))


def test_whole_and_streamed_answers_are_those_of_transformers(served: Served, reference: Any) -> None:
    answer = served.ask("t5 t9")
    assert answer.choices[0].message.content == expected(served, reference, "t5 t9")
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        4,
        9,
        13,
    )
    chunks = list(served.ask("t5 t9", stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == answer.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert len(chunks) >= 9
    assert chunks[-1].usage == answer.usage
    assert {c.id for c in chunks} == {chunks[0].id}


def test_requests_that_wait_share_passes_and_get_their_own_answers(served: Served, reference: Any) -> None:
    before = served.metric("tierline_passes_total"), served.metric("tierline_generated_tokens_total")
    asked = [(f"t{11 * i} t5 " + "t6 " * i, 8 + i) for i in range(5)]
    with ThreadPoolExecutor(len(asked)) as threads:
        answers = list(threads.map(lambda a: served.ask(a[0], max_tokens=a[1]), asked))
    for (text, new), answer in zip(asked, answers, strict=True):
        assert answer.choices[0].message.content == expected(served, reference, text.strip(), new)
    tokens = served.metric("tierline_generated_tokens_total") - before[1]
    assert tokens == sum(a.usage.completion_tokens for a in answers)
    assert served.metric("tierline_passes_total") - before[0] <= tokens / 1.5  # 5, at most 3 to a pass


def test_sampling_follows_its_seed_whoever_else_is_there(served: Served) -> None:
    def sampled(seed: int) -> str:
        answer = served.ask("t5", temperature=1.3, top_p=0.9, seed=seed, max_tokens=12)
        return str(answer.choices[0].message.content)

    alone = [sampled(seed) for seed in (1, 2, 3)]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(sampled, (1, 2, 3)))
    assert together == alone
    assert len(set(alone)) == 3


def test_an_answer_ends_before_a_stop_text(served: Served) -> None:
    whole = served.ask("t5 t9").choices[0].message.content
    words = whole.split()
    for stop in (f"{words[3]} {words[4]}", [words[7], words[2]]):
        first = min(whole.index(s) for s in ([stop] if isinstance(stop, str) else stop))
        for stream in (False, True):
            answer = served.ask("t5 t9", stop=stop, stream=stream)
            choices = [c.choices[0] for c in answer] if stream else [answer.choices[0]]
            texts = [c.delta.content or "" for c in choices] if stream else [choices[0].message.content]
            assert "".join(texts) == whole[:first]
            assert choices[-1].finish_reason == "stop"


def test_an_end_token_ends_an_answer(served: Served, reference: Any) -> None:
    prompts = torch.tensor([[3, i, i + 1, 4] for i in range(400)])
    made = reference.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=9, do_sample=False
    )
    first = next(i for i, row in enumerate(made[:, 4:].tolist()) if END in row[1:])
    text = f"t{first} t{first + 1}"
    whole = expected(served, reference, text, 20)
    answer = served.ask(text, max_tokens=20)
    assert answer.choices[0].message.content == whole
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == len(whole.split()) + 1


def until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_client_that_leaves_frees_its_slot(served: Served) -> None:
    def left() -> float:
        return served.metric("tierline_requests_total", outcome="left")

    before, passes = left(), served.metric("tierline_passes_total")
    # Seeds with which neither ends by itself.
    long: dict[str, Any] = {"max_tokens": CONTEXT - 12, "temperature": 2, "seed": 4}
    stream = served.ask("t5 t9", stream=True, **long)
    next(iter(stream))
    stream.close()
    until(lambda: left() == before + 1)
    body = {"model": served.folder.name, "messages": [{"role": "user", "content": "t5 t9"}], **long}
    connection = HTTPConnection(urlsplit(served.address).netloc)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    until(lambda: served.metric("tierline_running_sequences") == 1)
    connection.close()
    until(lambda: left() == before + 2)
    served.ask("t5", max_tokens=1)
    assert served.metric("tierline_passes_total") - passes < CONTEXT / 2
    assert served.metric("tierline_running_sequences") == served.metric("tierline_queue_length") == 0


@pytest.mark.parametrize(
    ("changes", "status", "why"),
    [
        ({"model": "gpt-4o"}, 404, "not served here"),
        (
            {"max_tokens": CONTEXT - 2},
            400,
            f"3 tokens of messages and 510 new ones are 513, .* for {CONTEXT} ",
        ),
        ({"messages": [{"role": "user", "content": "t5 " * CONTEXT}]}, 400, "larger --context"),
        ({"messages": [{"role": "system", "content": "t5"}]}, 400, "no system here"),
        ({"messages": [{"role": "wizard", "content": "t5"}]}, 400, "messages.0.role"),
        ({"messages": []}, 400, "messages: "),
        ({"temperature": 2.5}, 400, "temperature: "),
        ({"top_p": 0}, 400, "top_p: "),
        ({"max_tokens": 0}, 400, "max_tokens: "),
        ({"n": 3}, 400, "n: "),
        ({"logprobs": True}, 400, "logprobs: "),
        ({"extra_body": {"no_such_option": 1}}, 400, "no_such_option: "),
        ({"stop": ["x" * 2000]}, 400, "stop"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_the_apis_form(
    served: Served, changes: dict[str, Any], status: int, why: str
) -> None:
    with pytest.raises(openai.APIStatusError, match=why) as refused:
        served.ask("t5", **changes)
    assert refused.value.status_code == status
    body: Any = refused.value.body
    assert set(body) == {"message", "type", "param", "code"}
    assert body["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"{", 400), (b"[]", 400), (b'{"model": 1}', 400), (b"\xff\xfe", 400), (b"[" * 90_000, 400)],
)
def test_bodies_that_are_no_request_are_refused(served: Served, content: bytes, status: int) -> None:
    answer = httpx.post(
        f"{served.address}v1/chat/completions", content=content, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert "Traceback" not in answer.text


def test_other_hosts_other_sites_and_too_much_are_refused(served: Served) -> None:
    url = f"{served.address}v1/models"
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
        answer = httpx.get(url, headers=headers)
        assert (answer.status_code, set(answer.json()["error"])) == (
            403,
            {"message", "type", "param", "code"},
        )
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 200_000}]})
    big = httpx.post(url.replace("models", "chat/completions"), content=body)
    assert big.status_code == 413
    assert "bytes are not taken" in big.json()["error"]["message"]

    def pieces() -> Iterator[bytes]:  # which do not say beforehand how many
        for start in range(0, len(body), 2**14):
            yield body[start : start + 2**14].encode()

    assert httpx.post(url.replace("models", "chat/completions"), content=pieces()).status_code == 400
    assert httpx.get(url.replace("models", "nothing")).json()["error"]["message"] == "Not Found"
    assert httpx.put(url).status_code == 405


def test_the_model_is_listed_and_figures_add_up(served: Served) -> None:
    assert [m.id for m in served.client.models.list()] == [served.folder.name]
    assert served.client.models.retrieve(served.folder.name).owned_by == "tierline"
    before = served.metric("tierline_read_bytes_total")
    answer = served.ask("t5 t9", max_tokens=5)
    assert served.metric("tierline_read_bytes_total") > before  # some of the weights are streamed
    assert served.metric("tierline_prompt_tokens_total") >= answer.usage.prompt_tokens
    assert served.metric("tierline_requests_total", outcome="answered") > 0
    assert served.metric("tierline_time_to_first_token_seconds_count") > 0


@pytest.mark.slow
def test_a_read_error_reaches_every_client_and_ends_the_server(tmp_path: Path) -> None:
    with serving(checkpoint(tmp_path), 900_000) as found:
        stream = found.ask("t5", max_tokens=200, temperature=2, stream=True)
        chunks = iter(stream)
        next(chunks)
        with (tmp_path / "model.safetensors").open("r+b") as file:
            file.truncate(4096)
        with pytest.raises(openai.APIError, match=r"model\.safetensors: .* cut while in use"):
            list(chunks)
        until(lambda: bool(found.faults))
