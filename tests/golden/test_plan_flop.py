"""FLOP against what torch counts while transformers runs a small model of the same family.

FlopCounterMode counts matrix products and neither biases nor element-wise work, as we do. Attention is eager
here, because the counter does not know the CPU's fused kernel and leaves attention out under sdpa.
"""

from pathlib import Path

import pytest

from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.models.open import open_model
from tierline.models.workload import Workload
from tierline.plan.build import build_plan

BATCH, PROMPT = 2, 11


def test_prefill_and_decode_agree_with_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    config = transformers.LlamaConfig(
        hidden_size=48, intermediate_size=116, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=8, vocab_size=131, tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        ids = torch.ones((BATCH, PROMPT), dtype=torch.long)
        with FlopCounterMode(display=False) as prefill:
            out = model(ids, use_cache=True, logits_to_keep=1)
        with FlopCounterMode(display=False) as decode:
            model(ids[:, :1], past_key_values=out.past_key_values, logits_to_keep=1)
    work = Workload.of(batch=BATCH, prompt_tokens=PROMPT, new=1)
    plan = build_plan(open_model(str(tmp_path)), load_machine("nexys-video"), work, Precision.of())
    ours = {phase.name: phase.flop for phase in plan.phases}
    assert ours == {"prefill": prefill.get_total_flops(), "decode": decode.get_total_flops()}
