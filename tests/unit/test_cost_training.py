"""Training against the tables of the papers, and by hand on primes."""

import pytest

from tierline.cost.training import layer_activation_bytes, lora_parameters, step_flop, training_footprint
from tierline.errors import InputError


def test_mixed_precision_adamw_is_sixteen_bytes_per_parameter() -> None:
    # ZeRO (arXiv 1910.02054), figure 1: 7.5 B parameters take 120 GB
    held = training_footprint(2 * 7_500_000_000, 7_500_000_000, "adamw")
    assert held.total_bytes == 120_000_000_000
    assert (held.master_bytes + held.optimizer_bytes) == 12 * 7_500_000_000


def test_other_optimizers_on_primes() -> None:
    held = training_footprint(202, 101, "adamw-8bit", master=False)
    assert (held.gradient_bytes, held.optimizer_bytes) == (202, 2 * 101 + 8)
    assert training_footprint(404, 101, "sgd", master=False, gradient_bytes=4).total_bytes == 8 * 101
    assert (
        training_footprint(404, 101, "sgd-momentum", master=False, gradient_bytes=4).total_bytes == 12 * 101
    )


def test_adapters_train_only_themselves() -> None:
    assert lora_parameters([(13, 7), (11, 5)], 3) == 3 * (20 + 16)
    # LoRA (arXiv 2106.09685), table 4: on two matrices of GPT-3's 96 layers, 4.7 M and 37.7 M parameters
    counts = [lora_parameters([(12_288, 12_288)] * 96 * 2, rank) for rank in (1, 8)]
    assert [round(count / 1e6, 1) for count in counts] == [4.7, 37.7]
    with pytest.raises(InputError, match="rank 0"):
        lora_parameters([(13, 7)], 0)


def test_recomputation_adds_its_flop_and_drops_its_activations() -> None:
    assert [step_flop(101, 7, c).total for c in ("none", "selective", "full")] == [303, 310, 404]
    adapted = step_flop(101, 7, "full", adapters=11)  # 94 of frozen products pass gradients on, once
    assert (adapted.forward, adapted.backward, adapted.recomputed) == (112, 94 + 2 * (7 + 11), 112)
    tokens, batch, hidden, heads = 11, 3, 26, 13
    rows = tokens * batch * hidden
    kept = [layer_activation_bytes(tokens, batch, hidden, heads, c) for c in ("none", "selective", "full")]
    assert kept == [34 * rows + 5 * heads * tokens**2 * batch, 34 * rows, 2 * rows]
    # the same paper, section 4.1: for GPT-3 (96 heads, 2,048 tokens, 12,288 wide) 5as/h is 80
    gpt3 = layer_activation_bytes(2048, 1, 12_288, 96, "none")
    assert gpt3 == (34 + 80) * 2048 * 12_288
