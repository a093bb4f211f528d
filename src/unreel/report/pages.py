"""What unreel's pages share: one style, one frame around what a page says, and pictures of clips that play.

A page is one file and needs no network. A template extends ``page.html.jinja``, and shows clips by the macros of
``clips.html.jinja``.
"""

from __future__ import annotations

import base64
import functools
import io
import os
import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from unreel.core.files import write_whole
from unreel.core.text import shown
from unreel.core.words import counted, plural
from unreel.media import MediaError, probe, read_clip

_HERE = Path(__file__).parent
_FRAMES = 8
_SIDE_PX = 144
_QUALITY = 70


@dataclass(frozen=True)
class Clip:
    """A clip as a page shows it: ``frames`` pictures side by side in one WebP, as a data URI; empty where unreadable.

    ``seconds`` is how long the frames take to play; ``name`` stands below, ``href`` leads to the file, where there is
    one. ``title`` and ``note`` are what a page says of it, ``value`` a number; ``mark`` is "good", "bad" or "".
    """

    name: str
    picture: str = ""
    frames: int = 1
    seconds: float = 0.0
    href: str = ""
    title: str = ""
    note: str = ""
    value: str = ""
    mark: str = ""


def clip_of(
    path: str | os.PathLike[str],
    span: tuple[float, float | None] | None = None,
    *,
    name: str | None = None,
    side_px: int = _SIDE_PX,
    quality: int = _QUALITY,
    **said: str,
) -> Clip:
    """A file, or seconds of it, as a clip that plays: eight frames evenly spread, an image as one.

    Args:
        path: a video, an image or a folder of frames. span: start and end in seconds; None: all of it.
        name: what stands below; the file's name by default. side_px: the longest side of a frame.
        quality: of the pictures, at most 100.
        said: the other fields of ``Clip``.
    Returns: without a picture where the file cannot be read.
    """
    file = Path(path)
    href = said.pop("href", file.absolute().as_uri())
    known: dict[str, Any] = {"name": shown(file.name) if name is None else name, "href": href, **said}
    try:
        info = probe(file)
        start = 0.0 if span is None else span[0]
        end = info.duration_s if span is None or span[1] is None else min(span[1], info.duration_s)
        count = max(1, min(_FRAMES, info.num_frames))
        if count == 1:
            pixels = read_clip(file, indices=[0]).pixels
        else:  # the middle of each of as many equal parts
            times = start + (np.arange(count) + 0.5) * max(end - start, 0.0) / count
            pixels = read_clip(file, times_s=times).pixels
    except MediaError:
        return Clip(**known)
    pictures = [Image.fromarray(frame) for frame in pixels]
    for picture in pictures:
        picture.thumbnail((side_px, side_px))
    width, height = pictures[0].size
    strip = Image.new("RGB", (width * len(pictures), height))
    for i, picture in enumerate(pictures):
        strip.paste(picture, (i * width, 0))
    stream = io.BytesIO()
    strip.save(stream, "WEBP", quality=quality)
    data = base64.b64encode(stream.getvalue()).decode()
    # Long spans play in a hurry, short ones as they are.
    return Clip(
        picture=f"data:image/webp;base64,{data}",
        frames=len(pictures),
        seconds=round(min(max(end - start, 0.8), 2.4), 2),
        **known,
    )


def duration(seconds: float) -> str:
    """ "45 s", "3 min 7 s", "2 h 15 min": what a person would say."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 and whole < 600 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 >= 60 else "")


def date(stamp: object) -> str:
    """A time of ISO 8601 as people write it; what is none stays as it is."""
    try:
        return datetime.fromisoformat(str(stamp)).strftime("%-d %B %Y, %H:%M") if stamp else ""
    except ValueError:
        return str(stamp)


@functools.cache
def templates(folder: Path = _HERE) -> Environment:
    """The environment of the pages' templates: those of a folder, and those that all share."""
    environment = Environment(
        loader=FileSystemLoader([folder, _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "counted": counted,
        "plural": plural,
        "date": date,
        "duration": duration,
        "number": lambda value: f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}",
        "difference": lambda d: f"{d.difference:+.3f} [{d.low:+.3f}, {d.high:+.3f}]".replace("-", "−"),
        "p": lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}",
        "basename": lambda path: os.path.basename(str(path)) or str(path),
        "without_path": lambda fault: str(fault.get("message", "")).removeprefix(f"{fault.get('path', '')}: "),
    }
    return environment


def render_page(template: str, *, title: str, folder: Path = _HERE, **said: Any) -> str:
    """A page as text: a template of a folder, with what it is told; ``style`` is the pages' own.

    A picture that several clips show is in it once.
    """
    style = Markup("\n".join((_HERE / name).read_text(encoding="utf-8") for name in ("report.css", "page.css")))
    page = templates(folder).get_template(template).render(title=title, style=style, **said)
    picture = re.compile(r"url\((data:image/webp[^)]+)\)")
    several = [data for data, uses in Counter(picture.findall(page)).items() if uses > 1]
    names = {data: f"--picture-{i}" for i, data in enumerate(several)}
    page = picture.sub(lambda use: f"var({names[use[1]]})" if use[1] in names else use[0], page)
    shared = "".join(f"{name}: url({data}); " for data, name in names.items())
    return page.replace("</style>", f":root {{ {shared}}}\n</style>", 1) if shared else page


def write_page(path: str | os.PathLike[str], template: str, *, title: str, **said: Any) -> Path:
    """Write a page, all or nothing; returns its file."""
    return write_whole(path, render_page(template, title=title, **said))
