"""The page's files, from a fixed list: nothing of a request's path is ever opened."""

from collections.abc import Mapping
from importlib import resources

from fastapi import FastAPI
from fastapi.responses import Response

from tierline.report.plotly_script import plotly_script

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
FILES = ("index.html", "page.css", "page.js", "controls.js", "header.js", "results.js", "live.js")
FIGURES = "figures.js"
PLOTLY = "plotly.js"


def add_static(app: FastAPI) -> None:
    """Add the page and its files."""
    held = _held()

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        """The page."""
        return _response("index.html", held["index.html"])

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        """A file of the page."""
        if name == PLOTLY:
            return _response(name, plotly_script(), "max-age=86400")
        if name not in held:
            return Response(status_code=404)
        return _response(name, held[name])


def _held() -> Mapping[str, bytes]:
    folder = resources.files("tierline") / "web" / "page"
    figures = resources.files("tierline") / "report" / "assets" / FIGURES
    return {**{name: (folder / name).read_bytes() for name in FILES}, FIGURES: figures.read_bytes()}


def _response(name: str, content: bytes, cache: str = "no-cache") -> Response:
    kind = _TYPES[name.rpartition(".")[2]]
    return Response(content, media_type=kind, headers={"cache-control": cache})
