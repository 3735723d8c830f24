"""How the kernels in C come to be: built once, kept safely, done without where that fails."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tierline.run.kernels.blocks import BlockKernel
from tierline.run.kernels.building import load_or_build as build
from tierline.run.kernels.compiled import Compiled
from tierline.run.kernels.expansions import runnable_blocks

CC = shutil.which("cc")
pytestmark = pytest.mark.skipif(CC is None, reason="no compiler")


def load_or_build(folder: Path, compiler: Path, omp: Path | None) -> Compiled | None:
    return build("blocks.c", folder, compiler, omp, Compiled)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the real library, built once."""
    cache = tmp_path_factory.mktemp("built")
    assert load_or_build(cache, Path(str(CC)), None) is not None
    return kept(cache)[0]


@pytest.fixture
def quick(tmp_path: Path, built: Path) -> Path:
    """Return a compiler that notes each call beside itself, and takes the library that is built already."""
    return copying(tmp_path, built)


def copying(folder: Path, built: Path) -> Path:
    into = 'for last in "$@"; do :; done'  # the output comes last
    return script(folder / "cc", f'echo "$*" >> "{folder}/calls"; {into}; cp "{built}" "$last"')


def calls(compiler: Path) -> list[str]:
    return compiler.with_name("calls").read_text(encoding="utf-8").splitlines()


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("blocks-*.so"))


def test_it_is_built_once_and_then_loaded(tmp_path: Path, quick: Path) -> None:
    cache = tmp_path / "cache"
    assert load_or_build(cache, quick, None) is not None
    compile_call, _ = calls(quick)
    assert "-march=native" in compile_call
    assert "-ffp-contract=off" in compile_call
    assert "fopenmp" not in compile_call  # no runtime was named
    (library,) = kept(cache)
    assert not library.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    assert load_or_build(cache, quick, None) is not None
    assert len(calls(quick)) == 2
    assert sorted(cache.iterdir()) == [library]


def test_another_compiler_builds_anew(tmp_path: Path, built: Path) -> None:
    cache = tmp_path / "cache"
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        assert load_or_build(cache, copying(tmp_path / name, built), None) is not None
    assert len(kept(cache)) == 2


def test_a_flag_that_the_compiler_does_not_know_is_left_out(tmp_path: Path) -> None:
    refusing = f'case "$*" in *-march=native*) exit 1;; esac; exec "{CC}" "$@"'
    library = load_or_build(tmp_path / "cache", script(tmp_path / "cc", refusing), None)
    assert library is not None
    packed = memoryview(bytearray(b"\x00\x3c" + bytes(range(16)) * 1) * 8)
    blocks, scratch = runnable_blocks()["q4_0"], torch.empty(2**19)
    found = BlockKernel(blocks, scratch, library).expand(packed, 4, 64)
    assert torch.equal(found, BlockKernel(blocks, scratch, None).expand(packed, 4, 64))


@pytest.mark.parametrize("text", ["exit 1", "exec sleep 0", "exec /nonexistent/compiler"])
def test_a_compiler_that_makes_nothing_is_done_without(tmp_path: Path, text: str) -> None:
    assert load_or_build(tmp_path / "cache", script(tmp_path / "cc", text), None) is None
    assert kept(tmp_path / "cache") == []


def test_what_others_could_have_written_is_not_loaded(tmp_path: Path, quick: Path) -> None:
    cache = tmp_path / "cache"
    load_or_build(cache, quick, None)
    (library,) = kept(cache)
    for open_to_all in (library, cache):
        before, mode = len(calls(quick)), open_to_all.stat().st_mode
        open_to_all.chmod(0o777)
        assert load_or_build(cache, quick, None) is not None
        assert len(calls(quick)) > before  # built for this process alone
        open_to_all.chmod(mode)


def test_a_damaged_library_is_done_without(tmp_path: Path, quick: Path) -> None:
    load_or_build(tmp_path / "cache", quick, None)
    (library,) = kept(tmp_path / "cache")
    library.write_bytes(b"not a library")
    assert load_or_build(tmp_path / "cache", quick, None) is None


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path: Path, quick: Path) -> None:
    (tmp_path / "file").write_text("")
    assert load_or_build(tmp_path / "file" / "cache", quick, None) is not None


def test_it_computes_on_torchs_own_threads() -> None:
    """One OpenMP runtime in the process, and no thread more than torch has started already."""
    code = """
import os, re, torch
from pathlib import Path
from tierline.run.kernels.blocks import BlockKernel
from tierline.run.kernels.compiled import compiled
from tierline.run.kernels.expansions import runnable_blocks
torch.set_num_threads(3)
torch.ones(2000, 2000) @ torch.ones(2000, 2000)
before = len(os.listdir("/proc/self/task"))
kernel = BlockKernel(runnable_blocks()["q8_0"], torch.empty(2**19), compiled())
kernel.matmul(torch.ones(1, 1024), memoryview(bytearray(34 * 32 * 2048)), 2048)
maps = Path("/proc/self/maps").read_text()
runtimes = set(re.findall(r"/\\S*/lib(?:gomp|iomp5|omp)[^/\\s]*", maps))
print(len(runtimes), len(os.listdir("/proc/self/task")) - before)
"""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["1", "0"], done.stderr
