"""The command line's surface is frozen in help.txt, so that a change is seen in review.

To accept a change: UNREEL_ACCEPT=1 pytest tests/cli/test_help.py
"""

import inspect
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App
from rich.console import Console

from unreel import __version__
from unreel.cli.app import _unwrap, app

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
        for name in inspect.signature(function).parameters.keys() - {
            "common",
            "settings",
            "computing",
            "embedding",
            "columns",
            "kept",
            "windows",
            "compared",
            "maps",
        }:
            assert f"\n    {name}: " in inspect.cleandoc(function.__doc__), (path, name)
        assert "common" in inspect.signature(function).parameters, path


def test_help_loads_nothing_that_computes() -> None:
    """How long it takes is in benchmarks/startup.py; what takes long is what is imported."""
    code = (
        "import contextlib, io, sys; from unreel.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    codes = [main([*path, '--help']) for path in ([], ['pretrain'], ['doctor'], ['data', 'index'])]\n"
        "print(codes, sorted({name.split('.')[0] for name in sys.modules}), [n for n in sys.modules if 'rich.' in n])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.startswith("[0, 0, 0, 0]")
    assert "cyclopts" in out
    heavy = ("torch", "numpy", "scipy", "sklearn", "pydantic", "yaml", "av", "PIL", "pyarrow", "matplotlib", "jinja2")
    assert [name for name in (*heavy, "rich.markdown") if f"'{name}'" in out] == []


def test_a_text_is_unwrapped_for_the_terminal() -> None:
    """Plain help breaks where lines of a docstring do, unless each paragraph and each argument is one line."""
    text = """What it does,
    in a sentence.

    More of it, which
    goes on.

    Args:
        data: A folder, or
            a table.
        out: Where.
    """
    assert _unwrap(text).splitlines() == [
        *("What it does, in a sentence.", "", "More of it, which goes on.", ""),
        *("Args:", "    data: A folder, or a table.", "    out: Where."),
    ]


@pytest.mark.parametrize("module", ["unreel", "unreel.cli"])
def test_python_m_runs_the_command_line(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, code in ((["--version"], 0), (["pretran"], 2)):
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        with pytest.raises(SystemExit) as caught:
            runpy.run_module(module, run_name="__main__")
        assert caught.value.code == code
    captured = capsys.readouterr()
    assert captured.out == f"{__version__}\n"
    assert 'Did you mean "pretrain"?' in captured.err
