"""What a model itself says about a workload that does not."""

from dataclasses import replace

from tierline.models.description import Model
from tierline.models.workload import Workload


def with_defaults(
    asked: Workload, model: Model, *, images: int | None, steps: int | None, source_tokens: int | None
) -> Workload:
    """Return `asked` with what is None as the model has it: one image if it sees, its own denoising steps,
    and as many rows for a separate encoder as for the prompt.
    """
    phases = {phase.name for phase in model.phases}
    sees, encodes = model.image_tokens > 0 or "vision" in phases, "encode" in phases
    return replace(
        asked,
        images=int(sees) if images is None else images,
        steps=model.default_steps if steps is None else steps,
        source_tokens=asked.prompt_tokens * encodes if source_tokens is None else source_tokens,
    )
