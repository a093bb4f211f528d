"""``unreel serve``."""

from __future__ import annotations

from pathlib import Path

from unreel.cli.common import BEST_EMBEDDING, NO_OPTIONS, USUAL_COLUMNS, Columns, Common, Embedding
from unreel.core.errors import UsageError


def serve(
    encoder: Path,
    data: Path,
    /,
    *,
    out: Path = Path("labels"),
    port: int = 8321,
    columns: Columns = USUAL_COLUMNS,
    embedding: Embedding = BEST_EMBEDDING,
    common: Common = NO_OPTIONS,
) -> int:
    """Open a local page over your own folder: search, label by keyboard, train a head, see its predictions.

    The page answers only to this machine (127.0.0.1), and shows only the files of the data. Each label is saved at once
    in labels.csv, which "unreel predict --labels" reads, too. Press Ctrl-C to stop. Nothing is lost. The command needs
    the extra: pip install "unreel[serve]".

    Args:
        encoder: A run's folder, an encoder file (.safetensors), or the name of an encoder with weights, such as
            efficientnet_lite0 or timm:NAME.
        data: A folder of videos or images, or a manifest (CSV or Parquet).
        out: The folder for labels.csv and the trained head. Labels that are there already are read.
        port: Where the page listens: http://127.0.0.1:PORT.
    """
    embedding.check()
    if not 0 < port < 65536:
        raise UsageError(f"--port {port}: expected a number from 1 to 65535")
    from unreel.core.extras import import_extra
    from unreel.core.files import check_folder

    for package in ("fastapi", "uvicorn"):
        import_extra(package, "fastapi", "uvicorn", extra="serve", what="unreel serve")
    check_folder(out)
    import uvicorn

    from unreel.api import load_encoder
    from unreel.data.columns import Columns as Chosen
    from unreel.data.manifest import Manifest
    from unreel.protocols.compute import Compute
    from unreel.serve.app import HOST, create_app
    from unreel.serve.project import Project

    compute = Compute(progress=not common.quiet, **embedding.options_for(encoder))
    found = Manifest.open(data, columns=Chosen(**columns.named()))
    project = Project(load_encoder(encoder), found, out=out, compute=compute)
    common.say(f"http://{HOST}:{port}   {len(project.rows)} clips. Labels are kept in {project.labels_file}.")
    uvicorn.run(create_app(project), host=HOST, port=port, log_level="warning")
    return 0
