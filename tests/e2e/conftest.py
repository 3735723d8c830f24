"""What several end-to-end tests do with a model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tierline

IDS = torch.tensor([[3, 14, 15, 92, 65, 35, 89, 79, 3]])


@pytest.fixture(scope="session")
def logits() -> Callable[[Path, int | None], torch.Tensor]:
    """Return what gives the logits of a wide pass, and after it of a narrow one, within a budget."""

    def run(path: Path, resident: int | None) -> torch.Tensor:
        with tierline.load(path, resident=resident, context=64) as model, torch.inference_mode():
            wide = model(input_ids=IDS, use_cache=True)
            narrow = model(input_ids=IDS[:, :1], past_key_values=wide.past_key_values)
            assert resident is None or model.weights_held_bytes <= resident
            return torch.cat([wide.logits, narrow.logits], dim=1)

    return run
