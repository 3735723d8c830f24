"""Write data/ggml_types.json from the installed gguf package: `python -m tierline.formats._generate`."""

import json
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any


def ggml_table() -> dict[str, Any]:
    """Return what data/ggml_types.json holds: every tensor type of the installed gguf package."""
    from gguf import GGML_QUANT_SIZES

    rows = [
        {"name": kind.name, "id": int(kind), "block_elements": elements, "block_bytes": size}
        for kind, (elements, size) in sorted(GGML_QUANT_SIZES.items(), key=lambda item: int(item[0]))
    ]
    return {"kind": "datasheet", "source": "ggml", "gguf_version": version("gguf"), "types": rows}


if __name__ == "__main__":
    path = Path(str(files("tierline"))) / "data" / "ggml_types.json"
    path.write_text(json.dumps(ggml_table(), indent=1) + "\n", encoding="utf-8")
