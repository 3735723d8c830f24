"""A decoder layer cut in two by Tierline's rule, run by two processes that sum over gloo.

Run in a network of its own, so that the loopback's counters are those of the two processes alone. Prints one
JSON object: the loopback's bytes and segments during the layer; of each process the payload bytes that its
connections received, the largest difference to the whole layer, and the shapes that it held.
"""

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INNER, TOKENS = 14, 2, 32, 448, 1046, 211
RANKS = 2


def enter_own_network() -> None:
    """Move this process into a network namespace with nothing but a loopback, and bring that up."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) and libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
        sys.stdout.write(json.dumps({"skip": os.strerror(ctypes.get_errno())}))
        sys.exit(0)
    with socket.socket() as probe:
        up = struct.pack("16sh14x", b"lo", 0x1 | 0x8 | 0x40)  # UP, LOOPBACK, RUNNING
        fcntl.ioctl(probe, 0x8914, up)


def loopback() -> dict[str, int]:
    """Return the bytes that crossed the loopback so far and the TCP segments that were sent."""
    devices = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()
    line = next(line for line in devices if line.strip().startswith("lo:"))
    protocols = Path("/proc/self/net/snmp").read_text(encoding="ascii").splitlines()
    names, values = [line.split() for line in protocols if line.startswith("Tcp:")]
    return {"bytes": int(line.split(":")[1].split()[8]), "segments": int(values[names.index("OutSegs")])}


def received_bytes() -> int:
    """Return the payload bytes that this process's TCP connections have received: `tcpi_bytes_received`."""
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
        except OSError:  # closed meanwhile, or no TCP
            continue
        total += struct.unpack_from("=Q", info, 128)[0]
    return total


def layer(heads: int, kv_heads: int, inner: int) -> Any:
    """Return transformers' Llama decoder layer of these widths, and its rotary tables."""
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=HEAD_DIM,
        num_hidden_layers=1,
        attn_implementation="eager",  # type: ignore[call-arg]  # an option of every config
    )
    torch.manual_seed(7)
    made = LlamaDecoderLayer(config, 0).eval()
    return made, LlamaRotaryEmbedding(config)


def cut(name: str, value: Any, wanted: tuple[int, ...], rank: int) -> Any:
    """Return the part of a tensor that a rank has: the axis that `wanted` shortens, from its share on."""
    for axis, (size, own) in enumerate(zip(value.shape, wanted, strict=True)):
        if size != own:
            assert size % own == 0, name
            return value.narrow(axis, rank * own, own)
    return value


def work(rank: int, folder: str, gate: tuple[int, int], shapes: dict[str, tuple[int, ...]]) -> None:
    """Run the whole layer alone, then this rank's part with the other one."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.FileStore(  # type: ignore[attr-defined]  # exported where gloo is built in
        f"{folder}/store", RANKS
    )
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    whole, rotary = layer(HEADS, KV_HEADS, INNER)
    part, _ = layer(HEADS // RANKS, KV_HEADS // RANKS, INNER // RANKS)
    own = {n: cut(n, v, shapes[n], rank).clone() for n, v in whole.state_dict().items()}
    part.load_state_dict(own)

    def reduce(_: object, __: object, output: Any) -> None:
        dist.all_reduce(output)

    part.self_attn.o_proj.register_forward_hook(reduce)
    part.mlp.down_proj.register_forward_hook(reduce)
    rows = torch.randn(1, TOKENS, HIDDEN, generator=torch.Generator().manual_seed(3))
    tables = rotary(rows, torch.arange(TOKENS)[None])
    mask = torch.full((TOKENS, TOKENS), float("-inf")).triu(1)[None, None]
    with torch.inference_mode():
        wanted = whole(rows, position_embeddings=tables, attention_mask=mask)
        dist.all_reduce(torch.ones(1))  # connections are made at the first exchange
        wait(gate)
        before = received_bytes()
        found = part(rows, position_embeddings=tables, attention_mask=mask)
        wait(gate)
        received = received_bytes() - before
    if isinstance(wanted, tuple):
        wanted, found = wanted[0], found[0]
    difference = float((wanted - found).abs().max() / wanted.abs().max())
    shown = {
        "received": received,
        "difference": difference,
        "shapes": {n: list(v.shape) for n, v in own.items()},
    }
    Path(folder, f"rank{rank}.json").write_text(json.dumps(shown), encoding="utf-8")
    dist.destroy_process_group()


def wait(gate: tuple[int, int]) -> None:
    """Tell the parent that this rank is here, and go on when it says so."""
    os.write(gate[1], b"x")
    os.read(gate[0], 1)


def cut_shapes(folder: str) -> tuple[dict[str, tuple[int, ...]], list[int]]:
    """Return the shapes that Tierline gives a device, and the elements of each sum that it counts."""
    import tierline
    from tierline.models.cut import Place, cut_block
    from tierline.models.share import Share

    path = Path(folder) / "config.json"
    path.write_text(json.dumps(CONFIG), encoding="utf-8")
    layers = [x for c in tierline.model(path).components for x in c.layers]
    found = next(x for x in layers if any(o.attention for o in x.block.operations))
    made = cut_block(found.block, Place(Share(0, RANKS), Share(), 1), "layer")
    sums = [e.rows.evaluate({"batch": 1, "tokens": TOKENS}) * e.width for e in made.exchanges]
    return {t.name: t.shape for t in made.block.tensors}, sums


CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "num_hidden_layers": 1,
    "vocab_size": 307,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


def start(folder: str, shapes: dict[str, tuple[int, ...]]) -> list[tuple[int, int]]:
    """Start both ranks; return the parent's ends of their gates."""
    gates = []
    for rank in range(RANKS):
        to_parent, to_child = os.pipe(), os.pipe()
        if os.fork() == 0:
            work(rank, folder, (to_child[0], to_parent[1]), shapes)
            os._exit(0)
        gates.append((to_parent[0], to_child[1]))
    return gates


def pass_gate(gates: list[tuple[int, int]]) -> dict[str, int]:
    """Wait for both ranks, read the counters, and let them go on."""
    for here, _ in gates:
        os.read(here, 1)
    counted = loopback()
    for _, there in gates:
        os.write(there, b"x")
    return counted


def main() -> None:
    """Cut, run, count."""
    enter_own_network()
    import torch.distributed  # noqa: F401 - once, for both ranks
    import transformers.models.llama.modeling_llama  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        shapes, sums = cut_shapes(folder)
        gates = start(folder, shapes)
        before = pass_gate(gates)
        after = pass_gate(gates)
        for _ in range(RANKS):
            os.wait()
        texts = [Path(folder, f"rank{rank}.json").read_text(encoding="utf-8") for rank in range(RANKS)]
        counted = {key: after[key] - before[key] for key in before}
        document = {"loopback": counted, "ranks": [json.loads(t) for t in texts], "sums": sums}
        sys.stdout.write(json.dumps(document))


if __name__ == "__main__":
    main()
