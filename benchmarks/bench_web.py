"""How fast the page answers, in Debian's Chromium on loopback: `python benchmarks/bench_web.py [--loads N]`.

`ready` is from the start of the navigation until the verdict stands. A change is one keystroke or choice in a
control; from its event until they are painted: `answered` the verdict and the figures in words, `memory`,
`roofline` and `timeline` the pictures that differ then, `all` the last of them. The window is tall enough for
all three: what is out of view is not drawn. `server` are the milliseconds of a verdict with its memory map
without a browser. Medians, and the slowest.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from playwright.sync_api import Page, sync_playwright

HEIGHT = 1500  # all figures are in view: only those are drawn
IDLE = "html[data-state=idle]"
SETTINGS = {
    "smolvlm2-256m on nexys-video": "?model=smolvlm2-256m&machine=nexys-video&weights=mxfp8:block=8",
    "llama-3.1-70b on rtx-4090": "?model=llama-3.1-70b&machine=rtx-4090&weights=int4:group=64",
}
# What the page measured of a change, once it is painted.
MEASURED = """() => new Promise((resolve) => requestAnimationFrame(() => setTimeout(() => setTimeout(() => {
    const found = performance.getEntriesByType("measure");
    resolve(Object.fromEntries(found.map((m) => [m.name, m.duration])));
}))))"""
SHOWN = ("answered", "memory", "roofline", "timeline")
CHANGES = (
    ("context", ("1031", "2053", "4099", "")),
    ("weights", ("mxfp4", "int8:group=128", "mxfp8", "q4_k_m")),
    ("kv", ("fp8", "int8", "")),
    ("batch", ("2", "3", "5", "")),
    ("new", ("17", "31", "")),
)


@contextmanager
def served() -> Iterator[str]:
    """Yield the address of a server of its own."""
    command = [sys.executable, "-m", "tierline", "web", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None  # noqa: S101 - it is a pipe
        yield server.stdout.readline().split()[0]
        server.terminate()


def ready_ms(page: Page, address: str, query: str) -> float:
    """Return the milliseconds until the verdict stood."""
    page.goto(address + query)
    page.wait_for_selector(IDLE)
    return float(page.evaluate("document.documentElement.dataset.readyMs"))


def change_ms(page: Page) -> list[dict[str, float]]:
    """Return, per change, the milliseconds until each thing that it changed was on the screen."""
    found = []
    for figure in ("memory", "roofline", "timeline"):
        page.wait_for_selector(f"#{figure}-0[data-drawn]")
    for control, values in CHANGES:
        for value in values:
            page.evaluate("performance.clearMeasures()")
            page.locator(f"#{control}").fill(value)
            page.wait_for_selector(IDLE)
            found.append(page.evaluate(MEASURED))
    return found


def server_ms(address: str) -> list[float]:
    """Return the milliseconds of plans with their memory map, each of another context."""
    found = []
    for i in range(40):
        setting = {"model": "smolvlm2-256m", "machine": "nexys-video", "context": 1024 + i}
        body = json.dumps(setting).encode()
        request = urllib.request.Request(  # noqa: S310 - our own address
            address + "api/plan", body, {"Content-Type": "application/json"}
        )
        started = time.perf_counter()
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - our own address
            answer.read()
        found.append(1e3 * (time.perf_counter() - started))
    return found


def show(what: str, values: list[float]) -> None:
    """Print a line of the table."""
    print(f"{what:<45} {median(values):8.0f} {max(values):8.0f} {len(values):5}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, default=7)
    loads = parser.parse_args().loads
    print(f"{'milliseconds':<45} {'median':>8} {'slowest':>8} {'of':>5}")
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        show("server: verdict and memory map", server_ms(address))
        for name, query in SETTINGS.items():
            readies = []
            for _ in range(loads):
                context = browser.new_context(viewport={"width": 1280, "height": HEIGHT})
                page = context.new_page()
                readies.append(ready_ms(page, address, query))
                if len(readies) < loads:
                    context.close()
            show(f"{name}: ready", readies)
            changes = change_ms(page)
            for what in SHOWN:
                show(f"{name}: {what}", [change[what] for change in changes if what in change])
            show(f"{name}: all", [max(change.values()) for change in changes])
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
