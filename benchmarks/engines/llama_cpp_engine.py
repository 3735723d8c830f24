"""llama.cpp through xllamacpp. Usage: llama_cpp_engine.py MODEL TOKENS TARGET MODE [LOCKED_BYTES]

MODE is `mmap`, `none` (read at load) or `direct_io` (the same past the page cache). With LOCKED_BYTES so much
of the file's front is locked in memory by a mapping of its own, within the same cgroup, before it starts.
"""

import ctypes
import mmap
import os
import sys
from pathlib import Path

import xllamacpp
from steps import Steps

_CONTEXT, _THREADS = 512, 2


def lock(path: Path, footprint_bytes: int) -> int:
    """Lock the first bytes of the file in memory for as long as this process lives; return their address."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    with path.open("rb") as file:
        address = libc.mmap(None, footprint_bytes, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if libc.mlock(address, footprint_bytes):
        sys.exit(f"mlock of {footprint_bytes:,} B failed: {os.strerror(ctypes.get_errno())}")
    return int(address)


def main() -> None:
    """Load, complete a prompt of four tokens, write what each token took."""
    model, tokens, target, mode, *locked = sys.argv[1:]
    if locked:
        lock(Path(model), int(locked[0]))
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.load_mode = getattr(xllamacpp.llama_load_mode, f"LLAMA_LOAD_MODE_{mode.upper()}")
    params.warmup = params.fit_params = False
    params.n_ctx, params.cpuparams.n_threads, params.cache_ram_mib = _CONTEXT, _THREADS, 0
    server = xllamacpp.Server(params)
    steps = Steps()

    def arrived(chunk: dict[str, list[dict[str, str]]]) -> bool:
        if chunk["choices"][0]["text"]:
            steps.note()
        return False

    request = {
        "prompt": [1, 3, 4, 5], "max_tokens": int(tokens), "stream": True, "temperature": 0,
        "ignore_eos": True, "cache_prompt": False,
    }  # fmt: skip
    steps.begin()
    server.handle_completions(request, arrived)
    steps.write(target, version=xllamacpp.__version__)


if __name__ == "__main__":
    main()
