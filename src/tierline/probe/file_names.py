"""What checkpoints call a tensor: transformers' own conversion, run backwards on one tensor at a time.

Modules may hold fused what files hold apart (experts), or be renamed since the files were written.
"""

import re

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import PrefixChange, revert_weight_conversion

from tierline.probe.seams import quiet

_EXPERT = re.compile(r"(experts\.)\d+\.")


class FileNames:
    """Names in the checkpoint by names in the module; `{e}` stands for an expert's index."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        found = get_model_conversion_mapping(model, add_legacy=False)
        conversions = [c for c in found if not isinstance(c, PrefixChange)]
        self._any = bool(conversions)
        # As revert_weight_conversion() would find it, but once instead of for every tensor.
        setattr(model, "_weight_conversions", conversions)  # noqa: B010 - transformers' own private field
        self._known: dict[str, str] = {}

    def stored_name(self, name: str, tensor: torch.Tensor, layer: str, index: int) -> str:
        """Return the name in the file, parts that are stored apart joined by ` + `; empty if it is `name`.

        `{i}` stands for the index of the layer whose path is `layer`. Empty too where transformers cannot
        tell from one tensor alone.
        """
        if not self._any:
            return ""
        numbered = layer.rpartition(".")[2] == str(index)
        key = name.replace(f"{layer}.", f"{layer.rpartition('.')[0]}.{{i}}.", 1) if numbered else name
        if key not in self._known:
            self._known[key] = self._reverted(name, tensor, index if numbered else None)
        return self._known[key]

    def _reverted(self, name: str, tensor: torch.Tensor, index: int | None) -> str:
        try:
            with quiet():
                held = revert_weight_conversion(self._model, {name: tensor})
        except (RuntimeError, ValueError, KeyError, IndexError, AttributeError, TypeError):
            return ""
        names = list(dict.fromkeys(_EXPERT.sub(r"\1{e}.", stored) for stored in held))
        if names == [name]:
            return ""
        joined = " + ".join(names)
        return (
            joined
            if index is None
            else re.sub(rf"\.{index}\.", ".{i}.", joined, count=joined.count(" + ") + 1)
        )
