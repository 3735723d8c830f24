"""Short names of modules and lists of them."""

from collections.abc import Sequence

_SHORTEST_NAME = 6


def short(module: str) -> str:
    """Return the end of a module's path that tells what it is."""
    parts = module.split(".")
    return ".".join(parts[-2:] if len(parts[-1]) < _SHORTEST_NAME else parts[-1:])


def joined(names: Sequence[str]) -> str:
    """Return different names in order, a path that one shares with the last written once: `mlp.up, down`."""
    different = list(dict.fromkeys(names))
    paths = [name.rpartition(".")[0] for name in different]
    rest = [
        name.removeprefix(f"{path}.") if path and path == before else name
        for name, path, before in zip(different[1:], paths[1:], paths, strict=False)
    ]
    return ", ".join([*different[:1], *rest])
