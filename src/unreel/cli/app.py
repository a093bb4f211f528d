"""The commands and where they live; importing this file must stay cheap, so every command imports what it needs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from cyclopts import App, Group, Parameter

from unreel import __version__
from unreel.cli.data import data_app
from unreel.cli.doctor import doctor
from unreel.cli.explain import explain
from unreel.cli.explore import cluster, duplicates, outliers, search
from unreel.cli.export import export
from unreel.cli.label import label
from unreel.cli.serve import serve
from unreel.cli.show import demo, models, report
from unreel.cli.train import pretrain
from unreel.cli.use import embed, evaluate, predict
from unreel.cli.worth import worth_it

app = App(
    name="unreel",
    version=__version__,
    suppress_keyboard_interrupt=False,  # main says what stopped it
    help=(
        "Learn representations from unlabelled video, prove what they are worth, and use them.\n\n"
        "Every command explains itself: unreel COMMAND --help. Start with: unreel demo"
    ),
    default_parameter=Parameter(negative=""),
    help_format="plaintext",  # Markdown takes a third of the time of --help, and shows nothing else here
)
_START = Group.create_ordered("Start here")
_LEARN = Group.create_ordered("Learn")
_USE = Group.create_ordered("Prove and use")
app["--help"].group = app["--version"].group = Group.create_ordered("Also")

for command, group in (
    (demo, _START),
    (doctor, _START),
    (models, _START),
    (pretrain, _LEARN),
    (embed, _USE),
    (evaluate, _USE),
    (worth_it, _USE),
    (predict, _USE),
    (label, _USE),
    (search, _USE),
    (cluster, _USE),
    (duplicates, _USE),
    (outliers, _USE),
    (serve, _USE),
    (export, _USE),
    (explain, _USE),
    (report, _USE),
):
    app.command(command, group=group)

data_app.group = (_LEARN,)
app.command(data_app)


def _unwrap(text: str) -> str:
    """A docstring with each of its paragraphs and each argument on one line, for a terminal to break where it ends."""
    lines: list[str] = []
    for line in inspect.cleandoc(text).splitlines():
        indent, depth = len(line) - len(line.lstrip()), len(lines[-1]) - len(lines[-1].lstrip()) if lines else 0
        goes_on = line and lines and lines[-1] and (indent > depth >= 4 or indent == depth == 0)
        if goes_on:
            lines[-1] += " " + line.lstrip()
        else:
            lines.append(line)
    return "\n".join(lines)


def _commands(level: App) -> Iterator[App]:
    for name in level:
        if not name.startswith("-"):
            yield level[name]
            yield from _commands(level[name])


for found in _commands(app):
    if found.default_command is not None:
        found.default_command.__doc__ = _unwrap(found.default_command.__doc__ or "")
