"""`tierline web`: the page to explore with."""

import json
from typing import Annotated

import typer

from tierline.errors import InputError

DEFAULT_PORT = 8377


def web(
    host: Annotated[
        str, typer.Option(help="The address to listen on; others than this computer's own are let in by it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes any.", min=0, max=65535)] = DEFAULT_PORT,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as one JSON document.")] = False,
) -> None:
    """Serve a page to explore with: change a control, and verdict, memory map, roofline and timeline follow.

    Example: tierline web --port 8377
    """
    try:
        from tierline.web.serve import serve
    except ImportError as error:
        raise InputError(f"tierline web needs {error.name or 'more'}: pip install 'tierline[web]'") from None
    serve(host, port, announce=lambda address: _announce(address, open_browser, as_json=as_json))


def _announce(address: str, open_browser: bool, *, as_json: bool) -> None:
    typer.echo(json.dumps({"address": address}) if as_json else f"{address}  (Ctrl-C ends it)")
    if open_browser:
        import webbrowser

        webbrowser.open(address)
