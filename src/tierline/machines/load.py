"""Machines by name: the shipped catalogue, a TOML file, `this` computer, and a card in a host."""

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from tierline.errors import InputError
from tierline.machines.devices import assemble, build_all, overlay, override_all
from tierline.machines.draft import Draft, compose, read_draft
from tierline.machines.machine import Machine
from tierline.machines.sources import references

THIS = "this"
_MOST_BYTES = 2**20


def machine_names() -> tuple[str, ...]:
    """Return the names of the catalogue in alphabetical order, without `this`."""
    files = _catalogue().iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def load_machine(name_or_path: str, overrides: Sequence[str] = (), *, near: Path | None = None) -> Machine:
    """Return a machine: a catalogue name, a TOML file, `this`, or a card in a host as `CARD+HOST`.

    A card without `+HOST` sits in the host that its file names. `overrides` are `PATH=VALUE` settings
    (`host.capacity=48GiB`, `pcie.gen=3`). `near` is a path on the disk that `this` measures, by default the
    user's cache directory. Raises InputError for an unknown name or path and a bad file.
    """
    return build_all(override_all(load_draft(name_or_path, near=near), overrides))


def load_draft(name_or_path: str, *, near: Path | None = None) -> Draft:
    """Return what `load_machine` makes a machine of, before overrides: its `paths` can be set."""
    card, plus, host_name = name_or_path, "", ""
    if not Path(name_or_path).is_file():
        card, plus, host_name = name_or_path.partition("+")
    draft = _read(card, near)
    if draft.devices:
        draft = replace(draft, host=host_name) if plus else draft
        return assemble(draft, [_device(kind.machine, draft, near) for kind in draft.devices])
    if plus and draft.host is None:
        raise InputError(f"{name_or_path}: {card} takes no host; drop +{host_name}")
    return _in_host(draft, host_name or draft.host, near)


def _in_host(draft: Draft, host_name: str | None, near: Path | None) -> Draft:
    """Return `draft` in the host of that name, as it is where there is none."""
    if host_name is None:
        return draft
    host = _read(host_name, near)
    if host.host is not None or host.devices:
        raise InputError(f"{draft.name}+{host.name}: {host.name} is a card itself and cannot be a host")
    return compose(draft, host)


def _device(name: str, file: Draft, near: Path | None) -> Draft:
    """Return one of the devices of `file`, in its host, with the parts that the file replaces."""
    device = _read(name, near)
    if device.devices:
        raise InputError(f"{file.name}: {name} has devices of its own; name a machine that is a single one")
    if file.host is not None and device.host is None:
        raise InputError(f"{file.name}: {name} takes no host; leave host out")
    device = overlay(device, file)
    return _in_host(device, device.host, near)


def load_calibrated(near: Path) -> Machine | None:
    """Return this computer as it was calibrated with the disk that holds `near`, None where it was not.

    Unlike `load_machine("this")` it never measures, so that whoever starts a run does not wait for it.
    """
    from tierline.machines.calibrated import read_calibrated

    return load_machine(THIS, near=near) if read_calibrated(near) is not None else None


def _catalogue() -> Traversable:
    return resources.files("tierline") / "data" / "machines"


def _read(name: str, near: Path | None) -> Draft:
    if name == THIS:
        from tierline.machines.this import this_table

        return read_draft(THIS, this_table(near), "this computer", None)
    if name in machine_names():
        text = (resources.files("tierline") / "data" / "machines" / f"{name}.toml").read_text(
            encoding="utf-8"
        )
        return read_draft(name, tomllib.loads(text), f"data/machines/{name}.toml", references())
    path = Path(name)
    if path.is_file():
        return read_draft(path.stem, _parse(path), str(path), None)
    if path.suffix == ".toml" or "/" in name:
        raise InputError(f"{name[:200]!r}: no such machine file")
    alike = difflib.get_close_matches(name, machine_names(), n=3)
    hint = f"did you mean {' or '.join(alike)}?" if alike else "`tierline machines` lists them"
    raise InputError(f"no machine is called {name[:80]!r}; {hint}")


def _parse(path: Path) -> dict[str, object]:
    """Return the table in `path`, bounded before it is read."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > _MOST_BYTES:
        raise InputError(f"{path}: is larger than 1 MiB, which no machine file needs")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: bad TOML, bad UTF-8 and absurd integers
        raise InputError(f"{path}: is not a TOML file: {str(error)[:200] or 'nested too deeply'}") from None
