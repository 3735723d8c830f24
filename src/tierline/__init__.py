"""Tierline: plan, simulate and run transformers bigger than the fast memory they have."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tierline.run.load import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attributes are of any type
    """Import what is asked for when it is asked for: `import tierline` loads no torch."""
    if name == "load":
        from tierline.run.load import load

        return load
    raise AttributeError(f"module 'tierline' has no attribute {name!r}")
