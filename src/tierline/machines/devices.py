"""A machine of several devices: each is another machine of the catalogue, in a common host."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from tierline.errors import InputError
from tierline.machines.build import build, interconnect
from tierline.machines.draft import Draft, override
from tierline.machines.machine import Device, Machine


def overlay(device: Draft, file: Draft) -> Draft:
    """Return `device` with the parts that `file` names too replaced by those of `file`."""
    own = {*file.tiers, *file.links, *file.compute}
    kept = {path: n for path, n in device.numbers.items() if path.partition(".")[0] not in own}
    return replace(
        device,
        host=file.host or device.host,
        tiers=tuple(dict.fromkeys((*device.tiers, *file.tiers))),
        links={**device.links, **file.links},
        compute=tuple(dict.fromkeys((*device.compute, *file.compute))),
        numbers={**kept, **{p: n for p, n in file.numbers.items() if p.partition(".")[0] in own}},
    )


def assemble(file: Draft, kinds: Sequence[Draft]) -> Draft:
    """Return the first of `kinds` as the machine that `file` is, the others beside it.

    `kinds` are the drafts of the file's devices, in their host. Raises InputError where a device has the name
    of an interconnect.
    """
    first = kinds[0]
    taken = {*first.tiers, *first.links, *first.compute} & {*file.joins}
    if taken:
        raise InputError(f"{file.name}: the name {taken.pop()!r} is taken; an interconnect needs its own")
    joined = {p: n for p, n in file.numbers.items() if p.partition(".")[0] in file.joins}
    drafts = (None, *kinds[1:])
    return replace(
        first,
        name=file.name,
        title=file.title,
        notes=tuple(dict.fromkeys((*file.notes, *(note for kind in kinds for note in kind.notes)))),
        numbers={**first.numbers, **joined},
        devices=tuple(replace(d, draft=kind) for d, kind in zip(file.devices, drafts, strict=True)),
        joins=file.joins,
    )


def override_all(draft: Draft, settings: Sequence[str]) -> Draft:
    """Return `draft` and the other kinds of its devices with numbers replaced, as `override` does.

    A setting applies to every device that has such a number; InputError where none has.
    """
    kinds = [d.draft for d in draft.devices if d.draft is not None]
    own = [s for s in settings if _has(draft, s) or not any(_has(kind, s) for kind in kinds)]
    devices = [
        d
        if d.draft is None
        else replace(d, draft=override(d.draft, [s for s in settings if _has(d.draft, s)]))
        for d in draft.devices
    ]
    return replace(override(draft, own), devices=tuple(devices))


def build_all(draft: Draft) -> Machine:
    """Return the machine that `draft` describes, with its devices and what joins them if it has several."""
    machine = build(draft)
    if not draft.devices:
        return machine
    machines = [machine if d.draft is None else build(d.draft) for d in draft.devices]
    named = [
        replace(m, name=name, title=name, notes=())
        for kind, m in zip(draft.devices, machines, strict=True)
        for name in (PurePath(kind.machine).name.removesuffix(".toml"),)
    ]
    each = [m for kind, m in zip(draft.devices, named, strict=True) for _ in range(kind.count)]
    return replace(
        machine,
        devices=tuple(Device(f"{m.name}-{i}", m) for i, m in enumerate(each)),
        interconnects=tuple(interconnect(draft, name) for name in draft.joins),
    )


def several(machine: Machine) -> tuple[Device, ...]:
    """Return the devices of `machine`; raise InputError where it is a single one."""
    if len(machine.devices) < 2:
        raise InputError(
            f"{machine.name} is a single device: --parallel wants a machine with [[devices]] and what joins "
            "them, such as dgx-h100 or rtx-3090-x2 (docs/machines.md has an example)"
        )
    return machine.devices


def _has(draft: Draft, setting: str) -> bool:
    return setting.partition("=")[0].strip() in draft.paths()
