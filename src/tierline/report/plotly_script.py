"""The script that draws figures in a browser: of the plotly package, which itself is not imported."""

from importlib import resources


def plotly_script() -> bytes:
    """Return plotly's bundled script, UTF-8."""
    return (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
