"""Models on a hub, against a server on this computer: what is asked, what is read, what goes wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import prod
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")

from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from tierline.errors import InputError
from tierline.models.hub import is_hub_id
from tierline.models.open import open_model

COMMIT, NAME = "0123456789abcdef" * 2 + "01234567", "someone/tiny"


@dataclass(slots=True)
class Hub:
    """A server's files by path, its answers where they are not those files, and what was asked of it."""

    files: dict[str, bytes] = field(default_factory=dict)
    siblings: list[object] = field(default_factory=list)
    commit: str = COMMIT
    status: int = 0
    ignores_ranges: bool = False
    redirects: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent_bytes: dict[str, int] = field(default_factory=dict)
    address: str = ""

    def listing(self) -> bytes:
        names = self.siblings or [{"rfilename": name} for name in self.files]
        return json.dumps({"sha": self.commit, "siblings": names}).encode()

    def content(self, path: str) -> bytes | None:
        if path == f"/api/models/{NAME}":
            return self.listing()
        name = path.removeprefix(f"/{NAME}/resolve/{self.commit}/").removeprefix("/elsewhere/")
        return self.files.get(name)

    def add(self, folder: Path) -> None:
        self.files |= {f.name: f.read_bytes() for f in folder.iterdir()}


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.hub.asked.append((self.path, asked))
        content = self.hub.content(self.path)
        if self.hub.status or content is None:
            self.send_response(self.hub.status or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.hub.redirects and "/resolve/" in self.path:
            self.send_response(302)
            self.send_header("Location", "/elsewhere/" + self.path.rpartition("/")[2])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        whole = len(content)
        if asked and not self.hub.ignores_ranges:
            first, last = (int(n) for n in asked.removeprefix("bytes=").split("-"))
            content = content[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{first + len(content) - 1}/{whole}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        name = self.path.rpartition("/")[2]
        self.hub.sent_bytes[name] = self.hub.sent_bytes.get(name, 0) + len(content)
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisTest", (Handler,), {"hub": served}))
    served.address = f"http://127.0.0.1:{server.server_address[1]}"
    template = served.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", served.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def sharded(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama in three shards with an index, and its configuration."""
    folder = tmp_path_factory.mktemp("sharded")
    values = load_file(tiny_llama / "model.safetensors")
    weight_map = {name: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, name in enumerate(values)}
    for shard in sorted(set(weight_map.values())):
        save_file({n: v for n, v in values.items() if weight_map[n] == shard}, folder / shard)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_bytes((tiny_llama / "config.json").read_bytes())
    return folder


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    content = path.read_bytes()
    header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def test_shards_are_described_as_on_disk_and_only_their_headers_are_read(hub: Hub, sharded: Path) -> None:
    hub.add(sharded)
    model = open_model(NAME)
    local = open_model(str(sharded))
    assert replace(model, name="", source="") == replace(local, name="", source="")
    assert model.phases
    assert (model.name, model.source) == ("tiny", f"{NAME} on the hub at commit {COMMIT}")
    for name, content in hub.files.items():
        if name.endswith(".safetensors"):
            assert hub.sent_bytes[name] == 8 + int.from_bytes(content[:8], "little")
    asked = len(hub.asked)
    assert open_model(NAME) == model
    assert hub.asked[asked:] == [(f"/api/models/{NAME}", "")]


def test_files_that_lie_elsewhere_are_read_there_and_no_more_of_them(hub: Hub, sharded: Path) -> None:
    hub.add(sharded)
    hub.redirects = True  # as the hub does for large files
    assert open_model(NAME).phases
    headers = {n: 8 + int.from_bytes(c[:8], "little") for n, c in hub.files.items() if "of-00003" in n}
    assert len(headers) == 3
    assert {n: hub.sent_bytes[n] for n in headers} == headers
    assert all(asked for path, asked in hub.asked if path.startswith("/elsewhere/model-"))


def test_a_new_commit_is_read_anew(hub: Hub, sharded: Path) -> None:
    hub.add(sharded)
    open_model(NAME)
    hub.commit = COMMIT[::-1]
    assert open_model(NAME).source.endswith(COMMIT[::-1])
    assert hub.sent_bytes["config.json"] == 2 * len(hub.files["config.json"])


def test_a_configuration_alone_and_weights_alone(hub: Hub, sharded: Path) -> None:
    hub.files["config.json"] = (sharded / "config.json").read_bytes()
    assert open_model(NAME).phases
    name = "model-00002-of-00003.safetensors"
    hub.files, hub.commit = {name: (sharded / name).read_bytes()}, COMMIT[::-1]
    bare = open_model(NAME)
    assert bare.phases == ()
    assert "config.json" in bare.unknown[0]
    assert bare.parameters == elements(sharded / name)


def elements(path: Path) -> int:
    return sum(prod(entry["shape"]) for entry in read_header(path).values())


@pytest.mark.parametrize("how", ["switched off", "failing", "gone"])
def test_out_of_reach_means_as_last_seen(
    hub: Hub, sharded: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    hub.add(sharded)
    cache = os.environ["XDG_CACHE_HOME"]
    seen = open_model(NAME)
    if how == "switched off":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "failing":
        hub.status = 503
    else:
        closed = "http://127.0.0.1:9"  # the discard port: nobody answers there
        folder = Path(cache) / "tierline" / "hub"
        (kept,) = folder.iterdir()
        kept.rename(folder / closed.replace(":", "_").replace("/", "_"))
        monkeypatch.setattr(constants, "ENDPOINT", closed)
    asked = len(hub.asked)
    again = open_model(NAME)
    assert replace(again, notes=()) == replace(seen, notes=())
    assert "as it was last seen" in again.notes[-1]
    assert len(hub.asked) - asked == (1 if how == "failing" else 0)
    monkeypatch.setenv("XDG_CACHE_HOME", f"{cache}-empty")
    with pytest.raises(InputError, match=r"HF_HUB_OFFLINE|503|cannot be reached"):
        open_model(NAME)


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "hf auth login"), (403, "hf auth login"), (404, "no such file or directory"), (418, "418")],
)
def test_refusals_say_what_to_do(hub: Hub, status: int, said: str) -> None:
    hub.status = status
    with pytest.raises(InputError, match=said):
        open_model(NAME)


def test_a_server_without_ranges_is_not_read_to_the_end(hub: Hub, sharded: Path) -> None:
    hub.add(sharded)
    hub.ignores_ranges = True
    with pytest.raises(InputError, match="200, want part of a file"):
        open_model(NAME)


def test_a_header_that_cannot_be_true_is_not_asked_for(hub: Hub) -> None:
    hub.files["model.safetensors"] = (2**60).to_bytes(8, "little") + bytes(1000)
    with pytest.raises(InputError, match="claims a header of"):
        open_model(NAME)
    assert hub.sent_bytes["model.safetensors"] == 8


def test_headers_are_bounded_together(hub: Hub, sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(sharded)
    monkeypatch.setattr("tierline.models.hub.MAX_HEADERS_BYTES", 997)
    with pytest.raises(InputError, match="headers take"):
        open_model(NAME)
    assert {n for n, sent in hub.sent_bytes.items() if n.endswith(".safetensors") and sent != 8} == set()


def test_more_json_than_a_description_can_have_is_not_read(
    hub: Hub, sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(sharded)
    monkeypatch.setattr("tierline.models.hub.MAX_JSON_BYTES", len(hub.listing()) - 1)
    with pytest.raises(InputError, match="more than was asked for"):
        open_model(NAME)


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "model.bin", 7]
)
def test_an_index_cannot_point_elsewhere(hub: Hub, shard: object) -> None:
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": shard}}).encode()
    with pytest.raises(InputError, match="plain name"):
        open_model(NAME)
    assert len(hub.asked) == 2


@pytest.mark.parametrize(
    ("commit", "siblings"),
    [
        ("../../../../escape", []),
        ("", []),
        (COMMIT, [{"rfilename": "../../escape.safetensors"}, {"rfilename": 3}, 5, {}]),
    ],
)
def test_a_hostile_listing_writes_nothing_elsewhere(
    hub: Hub, tmp_path: Path, commit: str, siblings: list[object]
) -> None:
    hub.commit, hub.siblings = commit, siblings
    with pytest.raises(InputError, match=r"want a commit|holds neither"):
        open_model(NAME)
    assert list(tmp_path.rglob("*escape*")) == []


def test_a_path_that_exists_is_not_looked_up(hub: Hub, sharded: Path, tmp_path: Path) -> None:
    (tmp_path / "someone").mkdir()
    (tmp_path / "someone" / "tiny").symlink_to(sharded)
    assert open_model(NAME).phases
    assert hub.asked == []


def test_what_is_a_hub_id() -> None:
    assert is_hub_id("meta-llama/Llama-3.1-8B")
    for text in (
        "llama",
        "./llama",
        "a/b/c",
        "a/../b",
        "../b",
        "a/b.gguf",
        "a/config.json",
        "a/b c",
        "/etc",
        "a/",
    ):
        assert not is_hub_id(text)


def tierline(prelude: str, arguments: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    code = f"{prelude}\nfrom tierline.cli.main import main\nmain({arguments!r})"
    env = {**os.environ, **variables}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)


def test_plan_of_a_hub_id(hub: Hub, sharded: Path) -> None:
    hub.add(sharded)
    done = tierline("", ["plan", NAME, "--on", "nexys-video", "--json"], HF_ENDPOINT=hub.address)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [p["name"] for p in document["phases"]] == ["prefill", "decode"]


def test_without_huggingface_hub_the_error_says_what_to_install(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['huggingface_hub'] = None"
    done = tierline(hidden, ["plan", NAME, "--on", "nexys-video"], XDG_CACHE_HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install tierline[run]" in done.stderr
    assert done.stderr.count("\n") == 1
