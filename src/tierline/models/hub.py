"""A model on the Hugging Face hub by its headers: config.json whole, of weights only what describes them.

Requests go through huggingface_hub's client (its endpoint, its login, its offline switch). What comes back
is kept by commit; a repository that cannot be reached is described from what is kept.
"""

import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from tierline.cache import cache_folder, read_cached, write_cached
from tierline.errors import InputError
from tierline.models.checkpoint import choose_checkpoint
from tierline.models.fields import MAX_JSON_BYTES, Fields, parse_json
from tierline.models.safetensors_header import (
    PLAIN_NAME,
    PREFIX_BYTES,
    RawHeader,
    header_bytes,
    indexed_checkpoint,
    read_safetensors,
    shards,
)
from tierline.models.stored import Checkpoint
from tierline.units import format_bytes

CONFIG_NAME = "config.json"
INDEX_SUFFIX = ".safetensors.index.json"
MAX_SHARDS = 1024
MAX_SHARD_HEADER_BYTES = 25_000_000  # the hub's own limit for what it parses
MAX_HEADERS_BYTES = 100_000_000
_CONNECTIONS = 8
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,95}"
_ID = re.compile(rf"{_PART}/{_PART}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE_SUFFIXES = (".json", ".safetensors", ".gguf", ".toml", ".bin", ".pt", ".pth")
_DENIED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def is_hub_id(text: str) -> bool:
    """Return whether `text` is written as `owner/name`, and not as the path of a file."""
    return bool(_ID.fullmatch(text)) and ".." not in text and not text.endswith(_FILE_SUFFIXES)


class UnreachableError(InputError):
    """The hub did not answer, or is not to be asked."""


@dataclass(frozen=True, slots=True)
class HubRepository:
    """The files of one repository at one commit that describe a model; `note` says if it may be outdated."""

    name: str
    commit: str
    files: tuple[str, ...]
    folder: Path
    note: str = ""

    def config(self) -> Fields | None:
        """Return its parsed `config.json`, None if it has none."""
        return self._json(CONFIG_NAME) if CONFIG_NAME in self.files else None

    def checkpoint(self) -> Checkpoint | None:
        """Return the headers of its safetensors files, None if it has none; raise InputError if amiss."""
        chosen = choose_checkpoint(self.files, self.name)
        path = Path(self.name) / (chosen or "")
        if chosen is None:
            return None
        if not chosen.endswith(INDEX_SUFFIX):
            header = self._headers([chosen])[chosen]
            return read_safetensors(path, lambda _: header)
        index = self._json(chosen)
        wanted = dict.fromkeys(shards(path, index).values())
        if len(wanted) > MAX_SHARDS:
            raise InputError(f"{path}: names {len(wanted):,} files, more than {MAX_SHARDS:,}")
        headers = self._headers(wanted)
        return indexed_checkpoint(path, index, lambda shard: headers[shard.name])

    def _json(self, file: str) -> Fields:
        where = f"{self.name}/{file}"
        kept = self.folder / file
        content = read_cached(kept, MAX_JSON_BYTES)
        if content is None:
            content = _get(self._address(file), MAX_JSON_BYTES, where).content
            write_cached(kept, content)
        return Fields(parse_json(content, where), where)

    def _headers(self, names: Iterable[str]) -> dict[str, RawHeader]:
        """Return the headers of the named files; all their lengths are known before any is read."""
        kept = {name: self._kept(name) for name in names}
        missing = [name for name, header in kept.items() if header is None]
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            lengths = dict(zip(missing, pool.map(self._lengths, missing), strict=True))
            total = sum(header for header, _ in lengths.values())
            if total > MAX_HEADERS_BYTES:
                raise InputError(
                    f"{self.name}: its headers take {format_bytes(total)}, too much to describe it"
                )
            fetched = dict(
                zip(missing, pool.map(lambda n: self._fetch(n, *lengths[n]), missing), strict=True)
            )
        return {name: header or fetched[name] for name, header in kept.items()}

    def _lengths(self, file: str) -> tuple[int, int]:
        """Return how long a file's header is and the file, from its first 8 bytes."""
        where = f"{self.name}/{file}"
        start = _get(self._address(file), PREFIX_BYTES, where, first=0)
        length = header_bytes(start.content, start.file_bytes, where, MAX_SHARD_HEADER_BYTES)
        return length, start.file_bytes

    def _fetch(self, file: str, length: int, file_bytes: int) -> RawHeader:
        got = _get(self._address(file), length, f"{self.name}/{file}", first=PREFIX_BYTES)
        if len(got.content) != length:
            raise InputError(
                f"{self.name}/{file}: {len(got.content):,} of {length:,} header bytes came; try again"
            )
        header = RawHeader(got.content, file_bytes)
        write_cached(
            self.folder / f"{file}.header", file_bytes.to_bytes(PREFIX_BYTES, "little") + got.content
        )
        return header

    def _kept(self, file: str) -> RawHeader | None:
        """Return a header that was fetched before: the file's length in 8 bytes, then the JSON."""
        content = read_cached(self.folder / f"{file}.header", PREFIX_BYTES + MAX_SHARD_HEADER_BYTES)
        if content is None or len(content) < PREFIX_BYTES:
            return None
        return RawHeader(content[PREFIX_BYTES:], int.from_bytes(content[:PREFIX_BYTES], "little"))

    def _address(self, file: str) -> str:
        from huggingface_hub import constants, hf_hub_url

        return hf_hub_url(self.name, file, revision=self.commit, endpoint=constants.ENDPOINT)


def open_repository(name: str) -> HubRepository:
    """Return the repository `name` at its newest commit, or as it was last seen if the hub is out of reach.

    Raises InputError where huggingface_hub is not installed, there is no such repository or it is not open
    to this user, or the hub is out of reach and nothing is kept.
    """
    if find_spec("huggingface_hub") is None:
        raise InputError(
            f"{name}: no such file or directory; to read it from the hub `pip install tierline[run]`, which "
            f"brings huggingface_hub"
        )
    from huggingface_hub import constants

    host = re.sub(r"[^A-Za-z0-9.\-]", "_", constants.ENDPOINT)
    folder = cache_folder() / "hub" / host / name.replace("/", "--")
    kept = folder / "listing.json"
    try:
        content = _get(f"{constants.ENDPOINT}/api/models/{name}", MAX_JSON_BYTES, name).content
        repository = _listed(name, content, folder)
    except UnreachableError as error:
        content_kept = read_cached(kept, MAX_JSON_BYTES)
        if content_kept is None:
            raise
        return _listed(name, content_kept, folder, note=f"{error}; described as it was last seen")
    listing = {"sha": repository.commit, "siblings": [{"rfilename": file} for file in repository.files]}
    write_cached(kept, json.dumps(listing).encode())
    return repository


def _listed(name: str, content: bytes, folder: Path, note: str = "") -> HubRepository:
    """Return what the hub's listing says: the commit, and those plain file names that describe a model."""
    fields = Fields(parse_json(content, f"{name}: listing"), f"{name}: listing")
    commit = fields.text("sha")
    if not _COMMIT.fullmatch(commit):
        raise fields.error("sha", commit, "a commit")
    found = [f.get("rfilename") for f in fields.items("siblings") or () if isinstance(f, dict)]
    files = tuple(sorted(f for f in found if isinstance(f, str) and _describes(f)))
    return HubRepository(name, commit, files, folder / commit, note)


def _describes(file: str) -> bool:
    plain = file.removesuffix(".index.json")
    return file == CONFIG_NAME or bool(PLAIN_NAME.fullmatch(plain))


def _get(address: str, limit_bytes: int, where: str, first: int | None = None) -> RawHeader:
    """Return the content at `address`, or `limit_bytes` of it from byte `first` on, and the file's length.

    Not more than that is read, whatever the server sends. Raises UnreachableError where it does not answer
    and InputError for what it answers otherwise.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented there

    # The client's own base class of errors, which has had another name in every library under the hub's.
    failures = cast("tuple[type[Exception], ...]", (*HfHubHTTPError.__bases__, OSError))
    if constants.HF_HUB_OFFLINE:
        raise UnreachableError(f"{where}: not asked of the hub, because HF_HUB_OFFLINE is set")
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if first is not None:
        headers["Range"] = f"bytes={first}-{first + limit_bytes - 1}"
    timeout_s = constants.HF_HUB_DOWNLOAD_TIMEOUT
    try:
        with get_session().stream(
            "GET", address, headers=headers, timeout=timeout_s, follow_redirects=True
        ) as answer:
            _check_status(answer.status_code, where, partial=first is not None)
            content = bytearray()
            for chunk in answer.iter_raw():
                content += chunk[: limit_bytes + 1 - len(content)]
                if len(content) > limit_bytes:
                    break
            length = answer.headers.get("Content-Range", "").rpartition("/")[2]
    except failures as error:
        said = " ".join(str(error).split())[:160] or type(error).__name__
        raise UnreachableError(
            f"{where}: the hub at {constants.ENDPOINT} cannot be reached: {said}"
        ) from error
    if len(content) > limit_bytes:
        raise InputError(f"{where}: over {limit_bytes:,} bytes came, which is more than was asked for")
    return RawHeader(bytes(content), int(length) if length.isdecimal() else len(content))


def _check_status(status: int, where: str, *, partial: bool) -> None:
    if status in _DENIED:
        raise InputError(
            f"{where}: no such model on the hub, or a private or gated one: ask for access on its page and "
            f"log in with `hf auth login`"
        )
    if status == HTTPStatus.NOT_FOUND:
        raise InputError(f"{where}: no such file or directory, and the hub has none of that name either")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
        raise UnreachableError(f"{where}: the hub answered {status}; try again later")
    if status != (HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK):
        want = "part of a file (206)" if partial else "a file (200)"
        raise InputError(f"{where}: the hub answered {status}, want {want}")
