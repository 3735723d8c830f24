"""The cache keeps things whole or not at all, and is done without where it cannot be written."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tierline.cache import cache_folder, read_cached, write_cached


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    kept = tmp_path / "a" / "b"
    write_cached(kept, b"one")
    write_cached(kept, b"two")
    assert read_cached(kept, 3) == b"two"
    assert read_cached(kept, 2) is None
    assert list(kept.parent.iterdir()) == [kept]


def test_a_file_in_the_way_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    write_cached(tmp_path / "a" / "b", b"one")
    assert read_cached(tmp_path / "a" / "b", 9) is None


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the write fails as it does there."""
    code = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom tierline.cache import write_cached\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))\n"
        "write_cached(Path(sys.argv[1]), bytes(5000))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "kept")], check=True, timeout=60)
    assert not list(tmp_path.iterdir())


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tierline"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "tierline"
