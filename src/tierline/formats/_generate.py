"""Write what is derived: data/ggml_types.json from the gguf package, and the table of docs/formats.md.

Run `python -m tierline.formats._generate` in a checkout after a new version of gguf or a change of formats.
"""

import json
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from tierline.formats.ggml import ggml_blocks
from tierline.formats.parse import format_names, parse_format

_EXAMPLES = (
    "fp8:channel", "int8:channel", "int8:group=128", "int4:group=64", "int4:group=64,scale=bf16,zero=int",
    "ternary:dense", "mxfp8:block=8", "nf4:double",
)  # fmt: skip
_BEGIN, _END = "<!-- table -->\n", "<!-- end of table -->"


def ggml_table() -> dict[str, Any]:
    """Return what data/ggml_types.json holds: every tensor type of the installed gguf package."""
    from gguf import GGML_QUANT_SIZES

    rows = [
        {"name": kind.name, "id": int(kind), "block_elements": elements, "block_bytes": size}
        for kind, (elements, size) in sorted(GGML_QUANT_SIZES.items(), key=lambda item: int(item[0]))
    ]
    return {"kind": "datasheet", "source": "ggml", "gguf_version": version("gguf"), "types": rows}


def with_table(document: str) -> str:
    """Return the text of docs/formats.md with its table as the code has it now."""
    before, _, rest = document.partition(_BEGIN)
    after = rest.partition(_END)[2]
    names = [n for n in format_names() if n not in ggml_blocks()]
    listed = sorted({*names, *_EXAMPLES}, key=lambda n: (names.index(n.partition(":")[0]), n)) + list(
        ggml_blocks()
    )
    return before + _BEGIN + "\n".join(_rows(listed)) + "\n" + _END + after


def _rows(names: list[str]) -> list[str]:
    rows = ["| format | bits per element | bytes of 4096 x 4096 | source |", "| --- | ---: | ---: | --- |"]
    for name in names:
        chosen = parse_format(name)
        size = chosen.footprint_bytes((4096, 4096))
        rows.append(f"| `{name}` | {float(chosen.bits_per_element):g} | {size:,} | {chosen.source} |")
    return rows


if __name__ == "__main__":
    package = Path(str(files("tierline")))
    (package / "data" / "ggml_types.json").write_text(
        json.dumps(ggml_table(), indent=1) + "\n", encoding="utf-8"
    )
    page = package.parent.parent / "docs" / "formats.md"
    page.write_text(with_table(page.read_text("utf-8")), encoding="utf-8")
