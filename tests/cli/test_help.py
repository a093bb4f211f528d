"""The command line's surface is frozen in help.txt, so that a change is seen in review.

To accept a change: UNREEL_ACCEPT=1 pytest tests/cli/test_help.py
"""

import inspect
import io
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App
from rich.console import Console

from unreel.cli.app import app

FROZEN = Path(__file__).parent / "help.txt"


def commands(level: App, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name in sorted(n for n in level if not n.startswith("-")):
        yield from commands(level[name], (*path, name))


def help_text() -> str:
    parts = []
    for path in commands(app):
        stream = io.StringIO()
        app.help_print(list(path), console=Console(file=stream, width=110, no_color=True, force_terminal=False))
        lines = [line.rstrip() for line in stream.getvalue().strip().splitlines()]
        parts.append("\n".join([f"$ {' '.join(('unreel', *path, '--help'))}", *lines]))
    return "\n\n".join(parts) + "\n"


def test_the_help_is_what_was_reviewed() -> None:
    found = help_text()
    if os.environ.get("UNREEL_ACCEPT"):
        FROZEN.write_text(found, encoding="utf-8")
    assert found == FROZEN.read_text(encoding="utf-8")


def test_every_command_and_option_is_explained_and_takes_json() -> None:
    for path in commands(app):
        resolved = app
        for name in path:
            resolved = resolved[name]
        assert resolved.help, path
        if resolved.default_command is None:
            continue
        function = resolved.default_command
        for name in inspect.signature(function).parameters.keys() - {"common", "settings"}:
            assert f"\n        {name}: " in function.__doc__, (path, name)
        assert "common" in inspect.signature(function).parameters, path


@pytest.mark.parametrize("path", [(), ("pretrain",)], ids=["top", "pretrain"])
def test_help_takes_less_than_half_a_second(path: tuple[str, ...]) -> None:
    seconds = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "unreel.cli", *path, "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time: on a busy machine the wall clock measures the neighbours.
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5
