"""Tierline: plan, simulate and run transformers bigger than the fast memory they have."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# The package `tierline.plan` takes its name here when it is first imported: have that behind us, so that
# `tierline.plan(...)` stays the function.
import_module("tierline.plan")
from tierline.api import machine, model, plan, simulate  # noqa: E402

if TYPE_CHECKING:
    from tierline.run.load import load

__all__ = ["load", "machine", "model", "plan", "simulate"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attributes are of any type
    """Import what is asked for when it is asked for: `import tierline` loads no torch."""
    if name == "load":
        from tierline.run.load import load

        return load
    raise AttributeError(f"module 'tierline' has no attribute {name!r}")
