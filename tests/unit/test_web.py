"""The page's server: the figures of the command line, bounds before belief, and nobody else's page."""

import asyncio
import json
import shlex
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from tierline.cli.main import main
from tierline.errors import InputError
from tierline.models.gguf_header import read_gguf
from tierline.web.app import create_app
from tierline.web.pool import Pool
from tierline.web.serve import _listening
from tierline.web.setting import Setting, plan_command, report_command, simulate_command
from tierline.web.uploads import MOST_UPLOAD_BYTES, Uploads

BOARD = {"model": "smolvlm2-256m", "machine": "nexys-video", "weights": "mxfp8:block=8", "context": 1031}
STREAMED = {
    "model": "llama-3.1-8b", "machine": "rtx-4090", "overrides": ["vram.capacity=7GiB", "pcie.lanes=8"],
    "weights": "int8:group=128", "kv": "fp8", "activations": "fp16", "activation_policy": "layer-io",
    "keep": ["norms=fp32", "head=bf16"], "batch": 3, "prompt_tokens": 211, "new": 13,
}  # fmt: skip


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(("testserver",))) as made:
        yield made


def printed(command: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return what a command line that the page shows prints with --json."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(command)[1:], "--json"])
    assert not ended.value.code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def looked_up(document: dict[str, Any], key: str) -> Any:
    """Return what is at `key` of `tierline plan --json`; phases go by their name, lists by their index."""
    found: Any = document
    for part in key.split("."):
        if isinstance(found, list) and not part.isdecimal():
            found = next(one for one in found if one["name"] == part)
        else:
            found = found[int(part) if isinstance(found, list) else part]
    return found


@pytest.mark.parametrize(
    "setting", [BOARD, STREAMED, {"model": "smolvla", "machine": "alveo-u280", "steps": 7}]
)
def test_figures_are_those_of_the_command_line_that_is_shown(
    client: TestClient, setting: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    answer = client.post("/api/plan", json=setting).json()
    document = printed(answer["command"], capsys)
    assert len(answer["facts"]) > 8
    for fact in answer["facts"]:
        assert fact["value"] == looked_up(document, fact["key"]), fact["key"]
    bounds = client.post("/api/bounds", json=setting).json()
    assert (bounds["fits"], bounds["remedies"]) == (document["fits"], document["remedies"])
    assert answer["strategy"] == document["strategy"]


@pytest.mark.parametrize(
    "regime",
    [
        {},
        {"strategy": "layer-swap", "policy": "lru", "capacity": "5GiB"},
        {"strategy": "tiered", "policy": "pin-prefix", "prefetch_depth": 3},
    ],
)
def test_a_timeline_is_that_of_the_command_line_that_is_shown(
    client: TestClient, regime: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    answer = client.post("/api/timeline", json={**STREAMED, **regime}).json()
    document = printed(answer["command"], capsys)
    for fact in answer["facts"]:
        assert fact["value"] == looked_up({"simulation": document}, fact["key"]), fact["key"]
    assert answer["timeline"]["data"]


def test_figures_come_with_their_plan(client: TestClient) -> None:
    answer = client.post("/api/plan", json=BOARD).json()
    shown = {trace["name"]: trace for trace in answer["memory"]["data"]}
    facts = {fact["key"]: fact["value"] for fact in answer["facts"]}
    assert shown["KV cache"]["x"] == [pytest.approx(facts["footprint.kv_cache_bytes"] / 2**20)]
    roofline = client.post("/api/bounds", json=BOARD).json()["roofline"]
    assert any("ddr3" in trace["name"] for trace in roofline["data"])


def test_a_report_is_the_one_that_its_command_line_writes(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = client.post("/api/report", json=STREAMED)
    assert answer.headers["content-disposition"] == 'attachment; filename="report.html"'
    setting = Setting(**STREAMED)  # type: ignore[arg-type]
    command = report_command(setting, setting.model)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command)[1:])
    assert not ended.value.code
    assert answer.text == (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_model_whose_passes_are_not_known_has_a_footprint_and_says_why(
    client: TestClient, tiny_llama: Path
) -> None:
    header = _header(tiny_llama / "model.safetensors")
    found = _sent(client, "odd name<b>.safetensors", *header)
    assert found.status_code == 200, found.text
    setting = {"model": found.json()["model"], "machine": "nexys-video"}
    answer = client.post("/api/plan", json=setting).json()
    assert "message" in client.post("/api/bounds", json=setting).json()["roofline"]
    assert "odd_name_b_.safetensors" in answer["command"]
    assert "message" in client.post("/api/timeline", json=setting).json()


def test_a_dropped_checkpoint_is_planned_as_the_file_is(
    client: TestClient, tiny_llama: Path, tiny_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (tiny_llama / "config.json").read_bytes()
    content, file_bytes = _header(tiny_llama / "model.safetensors")
    dropped = _sent(client, "model.safetensors", config + content, file_bytes, config_bytes=len(config))
    _compare(client, dropped.json()["model"], tiny_llama, capsys)
    end = min(tensor.offset for tensor in read_gguf(tiny_gguf).tensors.values())
    whole = tiny_gguf.read_bytes()
    dropped = _sent(client, tiny_gguf.name, whole[:end], len(whole))
    _compare(client, dropped.json()["model"], tiny_gguf, capsys)
    dropped = _sent(client, "config.json", config, len(config))
    _compare(client, dropped.json()["model"], tiny_llama / "config.json", capsys)


def _compare(client: TestClient, model: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = client.post(
        "/api/plan", json={"model": model, "machine": "nexys-video", "weights": "int8"}
    ).json()
    document = printed(f"tierline plan {path} --on nexys-video --weights int8", capsys)
    for fact in answer["facts"]:
        assert fact["value"] == looked_up(document, fact["key"]), fact["key"]


def _header(path: Path) -> tuple[bytes, int]:
    whole = path.read_bytes()
    return whole[: 8 + int.from_bytes(whole[:8], "little")], len(whole)


def _sent(client: TestClient, name: str, content: bytes, file_bytes: int, config_bytes: int = 0) -> Any:
    query: dict[str, str | int] = {"name": name, "file_bytes": file_bytes, "config_bytes": config_bytes}
    return client.post("/api/upload", params=query, content=content)


HOSTILE = {
    "not JSON": ("config.json", b"<script>alert(1)</script>"),
    "a list": ("config.json", b"[1]"),
    "deep": ("config.json", b"[" * 100_000),
    "many layers": ("config.json", b'{"model_type":"llama","num_hidden_layers":1000000000,"hidden_size":64}'),
    "a long header": ("x.safetensors", struct.pack("<Q", 2**60)),
    "cut": ("x.safetensors", struct.pack("<Q", 100) + b"{}"),
    "no gguf": ("x.gguf", b"GGML" + b"\0" * 40),
    "an endless array": ("x.gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a"
                         + struct.pack("<IIQ", 9, 8, 2**60)),
    "another kind": ("x.bin", b"\x80\x04"),
    "a path": ("../../etc/passwd", b"{}"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_with_a_message(client: TestClient, case: str) -> None:
    name, content = HOSTILE[case]
    started_s = time.monotonic()
    answer = _sent(client, name, content, 10_000)
    assert answer.status_code == 422, answer.text
    assert answer.json()["message"]
    assert time.monotonic() - started_s < 5


def test_more_than_a_header_is_refused(client: TestClient) -> None:
    answer = _sent(client, "x.gguf", b"\0" * (MOST_UPLOAD_BYTES + 1), 2**30)
    assert (answer.status_code, "16 MiB" in answer.json()["message"]) == (413, True)


def test_only_so_many_uploads_are_kept(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 97,
              "num_hidden_layers": 2, "num_attention_heads": 4}  # fmt: skip
    names = []
    for layers in range(1, 41):
        content = json.dumps(config | {"num_hidden_layers": layers}).encode()
        names.append(uploads.add("config.json", content, len(content)))
    assert len(list(tmp_path.iterdir())) == 32
    assert len(uploads.model(names[-1]).components) > 0
    with pytest.raises(InputError, match="drop it on the page again"):
        Uploads(tmp_path).model(names[0])


def test_a_regime_that_does_nothing_is_refused(client: TestClient) -> None:
    answer = client.post("/api/timeline", json={**BOARD, "policy": "fifo"})
    assert (answer.status_code, "--strategy layer-swap" in answer.json()["message"]) == (422, True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "127.0.0.1:8377"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "10.1.2.3"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:8377", "Origin": "http://localhost:9999"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_only_its_own_page_may_ask(headers: dict[str, str], status: int) -> None:
    with TestClient(create_app(), base_url="http://127.0.0.1") as loopback:
        assert loopback.get("/", headers=headers).status_code == status


def test_an_address_that_was_asked_for_is_let_in() -> None:
    client = TestClient(create_app(("0.0.0.0",)))  # noqa: S104 - what a user may ask for
    for host, status in {"192.168.7.7:80": 200, "[fe80::1]": 200, "evil.example": 403}.items():
        assert client.get("/static/page.css", headers={"Host": host}).status_code == status


def test_headers_forbid_what_the_page_does_not_need(client: TestClient) -> None:
    for path in ("/", "/api/runs", "/static/page.js", "/nowhere"):
        headers = client.get(path, headers={"Origin": "http://testserver"}).headers
        assert "access-control-allow-origin" not in headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert client.options("/api/plan", headers={"Origin": "http://testserver"}).status_code == 405


def test_no_path_of_a_request_is_opened(client: TestClient) -> None:
    for name in ("../app.py", "..%2fapp.py", "%2e%2e/app.py", "nothing.js"):
        assert client.get(f"/static/{name}").status_code == 404


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    for name in ("/", "/static/page.css", "/static/page.js", "/static/results.js", "/static/figures.js"):
        text = client.get(name).text
        assert "http://" not in text, name
        assert "https://" not in text, name
        assert "innerHTML" not in text, name


def test_what_takes_too_long_is_ended_and_the_next_is_answered(tmp_path: Path) -> None:
    pool = Pool(tmp_path, workers=1)
    try:
        assert pool.ask({"ask": "model", "name": "gpt2"}, 20).status == 200
        late = pool.ask({"ask": "plan", "setting": Setting(**STREAMED).model_dump()}, 0.0001)  # type: ignore[arg-type]
        assert (late.status, b"takes longer" in late.body) == (422, True)
        assert pool.ask({"ask": "model", "name": "gpt2"}, 20).status == 200
    finally:
        pool.close()


def test_a_worker_that_ends_is_replaced(tmp_path: Path) -> None:
    pool = Pool(tmp_path, workers=1)
    try:
        mistaken = pool.ask({"ask": "model"}, 20)  # a mistake of ours, which no request can make
        assert (mistaken.status, b"terminal" in mistaken.body) == (500, True)
        for worker in pool._workers:
            assert worker._process is not None
            worker._process.kill()
        assert pool.ask({"ask": "model", "name": "gpt2"}, 20).status == 503
        assert pool.ask({"ask": "model", "name": "gpt2"}, 20).status == 200
    finally:
        pool.close()


@pytest.mark.slow
def test_a_dropped_architecture_that_only_transformers_knows_is_described(client: TestClient) -> None:
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 48,
              "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 97}  # fmt: skip
    content = json.dumps(config).encode()
    found = _sent(client, "config.json", content, len(content))
    assert found.status_code == 200, found.text
    answer = client.post(
        "/api/bounds", json={"model": found.json()["model"], "machine": "nexys-video"}
    ).json()
    assert answer["fits"]


def test_a_machine_lists_the_numbers_that_can_be_set(client: TestClient) -> None:
    found = {n["path"]: n for n in client.get("/api/machine?name=rtx-4090").json()["numbers"]}
    assert found["vram.capacity"]["text"] == "24.0 GiB"
    assert {"pcie.gen", "pcie.lanes", "host.capacity"} <= set(found)
    assert found["vram.sustained"]["text"] is None
    assert found["vram.peak"]["kind"] == "datasheet"


def test_an_address_that_cannot_be_had_is_an_error_with_a_fix(capsys: pytest.CaptureFixture[str]) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    with taken:
        port = str(taken.getsockname()[1])
        for arguments, says in ((["--port", port], "another --port"), (["--host", "nowhere"], "an address")):
            with pytest.raises(SystemExit) as ended:
                main(["web", *arguments])
            assert ended.value.code == 2
            assert says in capsys.readouterr().err


def test_what_is_written_is_sent_at_once() -> None:
    """Without TCP_NODELAY the last piece of an answer waits 40 ms for the client's acknowledgement."""

    async def accepted() -> int:
        flags = asyncio.get_running_loop().create_future()
        listening = _listening("127.0.0.1", 0)

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            sock = writer.get_extra_info("socket")
            flags.set_result(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(connected, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            writer.close()
            await writer.wait_closed()
            return int(await flags)

    assert asyncio.run(accepted())


def test_the_verb_serves_until_it_is_ended() -> None:
    command = [sys.executable, "-m", "tierline", "web", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = json.loads(server.stdout.readline())["address"]
        assert address.startswith("http://127.0.0.1:")
        assert "Tierline" in httpx.get(address).text
        server.send_signal(signal.SIGINT)
        server.wait(10)
        assert server.stderr is not None
        assert "Traceback" not in server.stderr.read()


WORDS = st.text("abc$`;'\" \\|&<>*", min_size=1, max_size=9)


@given(name=WORDS, capacity=st.sampled_from(["7GiB", "1.5 GB"]))
def test_a_command_line_is_quoted_for_a_shell(name: str, capacity: str) -> None:
    setting = Setting(model="gpt2", machine="this", capacity=capacity, overrides=("dram.free=1 GiB",))
    for command in (plan_command(setting, name), simulate_command(setting, name, "decode")):
        words = shlex.split(command)
        assert words[2] == name
        assert words[words.index("--set") + 1] == "dram.free=1 GiB"
