"""What the README shows is what the program does."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
# Commands on a model file that no checkout has; tests/e2e/test_run_*.py run them on real ones.
NEEDS_A_FILE = ("model.gguf",)

COMMANDS = [
    command
    for command in re.findall(r"`(tierline [^`]+)`", README.read_text(encoding="utf-8"))
    if not any(word in command for word in NEEDS_A_FILE)
]


def test_the_readme_names_commands() -> None:
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme_work(command: str, tmp_path: Path) -> None:
    for folder in README.parent.iterdir():  # what the README names stands here; what it writes goes away
        if folder.is_dir() and not folder.name.startswith("."):
            (tmp_path / folder.name).symlink_to(folder)
    arguments = shlex.split(command)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "tierline", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_files_that_the_readme_links_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target


def test_every_folder_of_the_tree_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    source = README.parent / "src" / "tierline"
    for folder in sorted(p for p in source.iterdir() if p.is_dir() and p.name != "__pycache__"):
        assert f"  {folder.name}/" in text, folder.name
