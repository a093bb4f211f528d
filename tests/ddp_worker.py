"""One gloo process of the test pool: receives (file, function, arguments) on stdin, answers on its old stdout."""

from __future__ import annotations

import importlib.util
import os
import pickle
import struct
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that jobs can import tests.…
_modules: dict[str, Any] = {}


def load(path: str) -> Any:
    if path not in _modules:
        name = f"ddp_job_{len(_modules)}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        _modules[path] = module
    return _modules[path]


def main() -> None:
    rank, world, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a job prints must not mix with the answers
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    while header := sys.stdin.buffer.read(4):
        path, function, arguments = pickle.loads(sys.stdin.buffer.read(struct.unpack("<I", header)[0]))
        try:
            answer = (True, getattr(load(path), function)(*arguments))
        except BaseException:
            answer = (False, traceback.format_exc())
        raw = pickle.dumps(answer)
        answers.write(struct.pack("<I", len(raw)) + raw)
        answers.flush()


if __name__ == "__main__":
    main()
