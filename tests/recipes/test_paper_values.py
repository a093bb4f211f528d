"""Values of the papers' recipes against the papers: each value that a recipe gives a source for stands here once more.

Typed from the numbers in docs/methods and, for PIRL and SwAV, from VISSL's and the authors' released configurations;
computed where a paper's numbers determine them.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from unreel.recipes import load_recipe

CVRL: dict[str, Any] = {
    **{"clip_frames": 16, "stride": 2, "interval": "decreasing", "power": 1.0, "size": 224, "consistent": True},
    **{"hidden_layers": 3, "hidden_dim": 2048, "out_dim": 128, "bn_momentum": 1 - 0.997, "temperature": 0.1},
    # The release sums the losses of both views; negatives come from all replicas.
    **{"reduction": "sum_of_views", "gather": "global", "views": "paper", "encoder": "r3d_50"},
    **{"optimizer": "sgd", "momentum": 0.9, "nesterov": False, "lr": 0.32, "weight_decay": 1e-6, "decay": "kernels"},
    **{"batch_size": 1024, "schedule": "cosine", "precision": "bfloat16"},
}
TCGL: dict[str, Any] = {
    **{"num_snippets": 3, "clip_frames": 16, "interval": 8, "num_frame_sets": 4, "size": 112, "resize": [128, 171]},
    **{"crop_per": "snippet", "flip_p": 0.0, "jitter_p": 0.0, "dct_highpass": 1, "bn_grouping": "per_call"},
    **{"intra_edges": "chain", "inter_edges": "order", "head_graph": "order", "p_edge": 0.2, "p_feat": 0.1},
    **{"which": "second", "kind": "both", "edge_drop": "directed", "edge_mask_scope": "batch"},
    **{"gnn": "gcn", "gcn_layers": 1, "share_intra_gcn": False, "gcn_act": "none", "hidden": 512, "proj": "elu"},
    **{"temperature": 0.5, "adaptive": True, "gate_hidden": 3 * 512 // 6, "dropout": 0.1},
    **{"w_intra": 1.0, "w_inter": 1.0, "w_order": 1.0},
    **{"optimizer": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4, "decay": "all"},
    **{"epochs": 300, "schedule": "plateau", "plateau_metric": "val_order_loss", "plateau_factor": 0.1},
    **{"plateau_patience": 50, "min_lr": 1e-7, "validation_draws": "fresh", "select": "val_order_accuracy", "seed": 32},
    "precision": "float32",
}
OBJECT_AWARE: dict[str, Any] = {
    **{"optimizer": "sgd", "momentum": 0.9, "nesterov": False, "lr_per_256": 0.03, "weight_decay": 1e-4},
    **{"decay": "all", "batch_size": 256, "epochs": 800, "schedule": "cosine", "schedule_per": "epoch"},
    **{"final_lr": 0.001, "warmup_epochs": 0, "views": "occon", "size": 224, "clip_frames": 1},
    **{"encoder": "resnet_18", "zero_init_residual": True, "stem": "imagenet", "normalization": "imagenet"},
    **{"crop_area_min": 0.08, "mix": "none", "momentum_schedule": "constant", "synchronise_norm": True, "seed": 0},
}
BG_MIXUP = {"bg_probability": 0.4, "bg_threshold": 0.2, "bg_memory": 50, "bg_block": 64, "bg_mask": "soft"}
BG_MIXUP |= {"bg_views": "first", "bg_stage": "after"}
MOCO = OBJECT_AWARE | {"version": "occon", "queue_size": 65_536, "out_dim": 128, "temperature": 0.2, "symmetric": False}
MOCO |= {"momentum of method": 0.999}
BYOL = OBJECT_AWARE | {"variant": "official", "momentum of method": 0.996, "hidden_dim": 4096, "out_dim": 256}

PAPERS: dict[str, dict[str, Any]] = {
    "cvrl_k600": CVRL | {"steps": math.ceil(200 * 366_016 / 1024), "warmup_steps": round(5 * 366_016 / 1024)},
    "cvrl_k400": CVRL | {"steps": round(200 * 215_570 / 1024), "warmup_steps": round(5 * 215_570 / 1024)},
    "tcgl_ucf101": TCGL | {"lr": 0.003, "batch_size": 24, "validation": 800},
    "tcgl_hmdb51": TCGL | {"lr": 0.003, "batch_size": 24, "validation": 400},
    "tcgl_k400": TCGL | {"lr": 0.005, "batch_size": 40, "validation": "val", "dropout": 0.5},
    "vcop_ucf101": {
        **{"num_snippets": 3, "clip_frames": 16, "interval": 8, "stride": 1, "size": 112, "resize": [128, 171]},
        **{"crop_per": "snippet", "flip_p": 0.0, "jitter_p": 0.0, "hidden": 512, "dropout": 0.5},
        **{"bn_grouping": "per_call", "encoder": "r3d_18", "layers": [1, 1, 1, 1]},
        **{"optimizer": "sgd", "lr": 1e-3, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4},
        **{"batch_size": 8, "epochs": 300, "schedule": "constant", "warmup_epochs": 0, "validation": 800},
        **{"validation_draws": "fresh", "select": "val_loss", "seed": 632},
    },
    "pirl_imagenet": {
        **{"size": 224, "crop_area_min": 0.08, "hue": 0.2, "blur_p": 0.0, "grid": 3, "jigsaw_size": 255},
        **{"jigsaw_area_min": 0.6, "patch_px": 64, "out_dim": 128, "jigsaw_weight": 0.5, "num_negatives": 32_000},
        **{"temperature": 0.07, "memory_momentum": 0.5, "loss": "nce", "encoder": "resnet_50"},
        **{"normalization": "imagenet", "optimizer": "sgd", "momentum": 0.9, "nesterov": False},
        **{"lr_per_256": 0.12 * 256 / 1024, "weight_decay": 1e-4, "batch_size": 32 * 32, "epochs": 800},
        **{"schedule": "cosine", "schedule_per": "epoch", "final_lr": 0.12 / 1000, "warmup_epochs": 0},
    },
    "swav_imagenet": {
        **{"rho": 2, "views": "occon", "size": 224, "crop_area_min": 0.14, "small_views": 6, "small_size": 96},
        **{"small_area_min": 0.05, "small_area_max": 0.14, "jitter_strength": 2.0, "hidden_dim": 2048, "out_dim": 128},
        **{"num_prototypes": 3000, "epsilon": 0.05, "iterations": 3, "temperature": 0.1, "freeze_steps": 313},
        **{"queue_size": 0, "encoder": "resnet_50", "normalization": "imagenet", "zero_init_residual": True},
        **{"optimizer": "lars", "lr": 4.8, "momentum": 0.9, "weight_decay": 1e-6, "trust_coefficient": 0.001},
        **{"batch_size": 64 * 64, "epochs": 800, "schedule": "cosine", "warmup_epochs": 10, "final_lr": 4.8 / 1000},
        **{"synchronise_norm": True, "precision": "bfloat16"},
    },
    "moco_in9": MOCO,
    "moco_coco": MOCO,
    "moco_cub": MOCO | {"epochs": 2000},
    "moco_flowers": MOCO | {"epochs": 2000},
    "byol_in9": BYOL | BG_MIXUP,
    "byol_coco": BYOL,
}
_SOURCED = re.compile(r"^  (\w+): .*#.*(\[code|\[release\]|\[paper\])")


def sourced(name: str) -> dict[str, str]:
    """Section by key, of the values that the file gives a source for."""
    found, section = {}, ""
    for line in load_recipe(name).path.read_text(encoding="utf-8").splitlines():
        if line and line[0] not in " #":
            section = line.rstrip(":")
        elif match := _SOURCED.match(line):
            key = match[1]
            found[_plain(section, key)] = section
    return found


_PLAIN = {
    ("method", "momentum"): "momentum of method",
    ("views", "preset"): "views",
    ("clips", "scale"): "interval_scale",
}


def _plain(section: str, key: str) -> str:
    return section if key == "name" else _PLAIN.get((section, key), key)


@pytest.mark.parametrize("name", PAPERS)
def test_values_with_a_source_are_the_source_s(name: str) -> None:
    sections, wanted = load_recipe(name).sections, PAPERS[name]
    values = {_plain(section, key): value for section, keys in sections.items() for key, value in keys.items()}
    for key, value in wanted.items():
        right = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
        assert values[key] == right, key
    missing = sourced(name).keys() - wanted.keys()
    assert missing <= {"method"}, f"these have a source and are checked nowhere: {sorted(missing)}"
