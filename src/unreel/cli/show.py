"""``unreel demo``, ``unreel models``, ``unreel report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unreel.cli.common import BEST_EMBEDDING, NO_OPTIONS, USUAL_COLUMNS, Columns, Common, Embedding
from unreel.core.errors import UsageError
from unreel.core.text import table

_OTHERS = (
    "You can also name a net of another package: timm:NAME, hf:NAME (transformers), or your own code as "
    "package.module:factory. See docs/own_encoder.md."
)


def demo(
    *, out: Path = Path("demo-run"), full: bool = False, tiny: bool = False, seed: int = 0, common: Common = NO_OPTIONS
) -> int:
    """Walk the whole path on a built-in world: make videos, train, prove, report.

    Args:
        out: Folder for the world, the run and report.html.
        full: Train longer: 30 minutes instead of 3 minutes, on 2 cores.
        tiny: Take only a few seconds, to see that everything works. Its scores mean nothing.
        seed: Seed of the world and of the training.
    """
    if full and tiny:
        raise UsageError("--full and --tiny exclude each other")
    from unreel.cli.demo import Size, as_text, run_demo
    from unreel.core.files import claimed

    size: Size = "full" if full else "tiny" if tiny else "standard"
    with claimed(out):
        data = run_demo(out, size=size, seed=seed, say=common.say)
    common.print(data, as_text(data))
    return 0


def models(pattern: str = "*", /, *, common: Common = NO_OPTIONS) -> int:
    """List the encoders with their parameters, the width of their embedding and their input.

    Args:
        pattern: A shell-style pattern, such as 'r3d*'.
    """
    import torch

    from unreel.core.errors import unknown_name
    from unreel.nn import count_parameters, create_encoder, encoder_arguments, list_encoders

    names = list_encoders(pattern)
    if not names:
        raise unknown_name("encoder", pattern, list_encoders())
    rows: list[dict[str, object]] = []
    missing: list[str] = []
    with torch.device("meta"):
        for name in names:
            fresh: dict[str, Any] = {"pretrained": False} if "pretrained" in encoder_arguments(name) else {}
            try:
                encoder = create_encoder(name, **fresh)
            except UsageError as error:  # its package is missing
                missing.append(str(error))
                continue
            spec = encoder.input_spec
            rows.append(
                {
                    "name": name,
                    "parameters": count_parameters(encoder),
                    "features": encoder.num_features,
                    "frames": spec.num_frames,
                    "stride": spec.stride_frames,
                    "size_px": spec.size_px,
                    "channels": spec.channels,
                }
            )
    lines = [
        (r["name"], f"{r['parameters']:,}", r["features"], f"{r['frames']} × {r['size_px']}² (every {r['stride']})")
        for r in rows
    ]
    text = table(("name", "parameters", "features", "input: frames × pixels² (stride)"), lines)
    others = [_OTHERS] if pattern == "*" else []
    common.print({"encoders": rows, "not_installed": missing}, "\n".join([text, *missing, *others]))
    return 0


def report(
    run: Path,
    /,
    *others: Path,
    out: Path | None = None,
    data: Path | None = None,
    most: int = 200,
    columns: Columns = USUAL_COLUMNS,
    embedding: Embedding = BEST_EMBEDDING,
    common: Common = NO_OPTIONS,
) -> int:
    """Write a page about a run: what the encoder is worth, and how training went. Or compare several runs on a page.

    The page that compares runs has scores on the same data with paired differences to the first run, the settings that
    differ, and the losses in one figure.

    Args:
        run: A run's folder.
        others: More runs to compare with the first. Name the page with --out.
        out: The page to write (.html). The default is report.html in the run's folder.
        data: Also show what the encoder sees in these videos or images, without labels: a map, clusters, neighbours and
            near-duplicates.
        most: With --data: look at no more files than this.
    """
    for folder in (run, *others):
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such run folder")
    if others and out is None:
        raise UsageError("several runs become one page: name it with --out compare.html")
    if others and data is not None:
        raise UsageError("--data is looked at by one run: leave out the other runs, or --data")
    from unreel.report import write_comparison, write_report

    if others and out is not None:
        path = write_comparison([run, *others], out)
    else:
        from unreel.data.columns import Columns as Chosen

        options = {} if data is None else {**embedding.options_for(run), "progress": not common.quiet}
        path = write_report(run, out=out, data=data, columns=Chosen(**columns.named()), most=most, **options)
    common.print({"report": str(path)}, f"wrote {path}")
    return 0
