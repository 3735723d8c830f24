"""`tierline pack`: a model rewritten once for streaming, aligned, checksummed, in a kernel's own form."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tierline.cli.progress import loading_bar
from tierline.run.source import open_source
from tierline.units import format_bytes


def pack(
    model: Annotated[
        Path,
        typer.Argument(metavar="SRC", help="A GGUF file, or a directory of config.json and safetensors."),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DST", help="The directory to write; made if missing.")],
    weights: Annotated[
        str,
        typer.Option(
            help="int8:channel, int8:group=128, int4:group=32 (64, 128), mxfp8, mxfp4, or keep (GGUF blocks: "
            "their like at their size)."
        ),
    ] = "keep",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Rewrite a model once, in the order and the form in which it is streamed and computed.

    Example: tierline pack model.gguf packed --weights keep && tierline run packed "Hello"

    The file gets its name when it is whole; after an interruption the same command goes on where it was.
    """
    source = open_source(model)
    with loading_bar("starting torch and transformers") as bar:
        from tierline.run.pack.pack import pack as write

        bar.say("laying out the file")
        packed = write(source, folder, weights, bar.packing)
        bar.stop()
    if as_json:
        document = {
            "path": str(packed.path),
            "file_bytes": packed.file_bytes,
            "by_format_bytes": dict(packed.bytes_by_format),
        }
        typer.echo(json.dumps(document))
        return
    typer.echo(f"{packed.path}: {format_bytes(packed.file_bytes)}")
    for number_format, footprint_bytes in packed.bytes_by_format.items():
        typer.echo(f"  {number_format}: {format_bytes(footprint_bytes)}")
