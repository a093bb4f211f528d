"""Every option of version 0.1's section ``method`` is answered with the name that it has now, and that one works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unreel.cli.main import main
from unreel.core.errors import UsageError
from unreel.core.settings import Layer
from unreel.methods import list_methods
from unreel.recipes import load_recipe
from unreel.recipes.schema import COMMAND_LINE, resolve

# Section by section what version 0.1 called ``--method.NAME``; NAME=NEW where it has another name now.
IMAGE_VIEWS = (
    "views=preset size consistent crop_area_min crop_area_max crop_aspect_min crop_aspect_max crop_sampler antialias "
    "flip_p jitter_p jitter_strength brightness contrast saturation hue contrast_pivot saturation_mode gray_p blur_p "
    "blur_sigma_min blur_sigma_max blur_padding solarize_p solarize_threshold compiled"
)
PACE_VIEWS = "size jitter_p resize antialias crop flip_p brightness contrast saturation hue gray_p channel_p"
ROTATION_VIEWS = f"{PACE_VIEWS.replace(' flip_p', '')} crop_per color_per"
SNIPPET_VIEWS = f"{PACE_VIEWS} crop_per color_per flip_per"
OBJECTS = (
    "object_crop object_pick object_margin object_area_min bg_mixup bg_variant bg_probability bg_threshold bg_memory "
    "bg_mask bg_views bg_stage bg_fill bg_motion bg_block"
)
CLIP_SET = "clip_frames stride rho interval"
MOVED: dict[str, dict[str, str]] = {
    "cvrl": {
        "clips": "clip_frames stride interval power fixed_frames interval_scale=scale swap",
        "views": IMAGE_VIEWS,
        "head": "hidden_layers hidden_dim out_dim batch_norm bn_momentum bn_eps bias",
    },
    "simclr": {"clips": CLIP_SET, "views": IMAGE_VIEWS, "head": "hidden_layers hidden_dim out_dim bn_momentum"},
    "moco": {"clips": CLIP_SET, "views": IMAGE_VIEWS, "head": "version hidden_dim out_dim"},
    "byol": {"clips": CLIP_SET, "views": IMAGE_VIEWS, "head": "variant hidden_dim out_dim"},
    "swav": {
        "clips": CLIP_SET,
        "views": f"{IMAGE_VIEWS} small_views small_size small_area_min small_area_max",
        "head": "hidden_dim out_dim",
    },
    "pirl": {
        "clips": CLIP_SET,
        "jigsaw": "grid patch_px",
        "views": f"{IMAGE_VIEWS} jigsaw_size jigsaw_area_min",
        "head": "out_dim",
    },
    "supervised": {
        "clips": "clip_frames stride",
        "views": "size crop resize crop_area_min crop_aspect_min crop_aspect_max flip_p",
    },
    "tcgl": {
        "clips": "num_snippets clip_frames interval stride",
        "views": SNIPPET_VIEWS,
        "graph": "intra_edges inter_edges head_graph gnn gcn_layers share_intra_gcn gcn_act hidden proj",
        "corruption": "p_edge p_feat corrupt=which corruption=kind noise_std edge_drop edge_mask_scope",
        "head": "adaptive gate_hidden dropout",
    },
    "vcop": {
        "clips": "num_snippets clip_frames interval stride",
        "views": SNIPPET_VIEWS,
        "head": "head_dim=hidden dropout",
    },
    "opn": {
        "clips": "num_snippets clip_frames interval stride tile",
        "views": SNIPPET_VIEWS,
        "head": "head_dim=hidden dropout",
    },
    "vcp": {
        "clips": "clip_frames interval stride operations shuffle_parts",
        "views": SNIPPET_VIEWS,
        "head": "head_dim=hidden dropout",
    },
    "shuffle_learn": {
        "clips": "clip_frames interval stride window tile positive_p",
        "views": SNIPPET_VIEWS,
        "head": "head_dim=hidden dropout",
    },
    "arrow_of_time": {
        "clips": "clip_frames stride reverse_p",
        "views": SNIPPET_VIEWS,
        "head": "head_dim=hidden dropout",
    },
    "pace": {"clips": "clip_frames rates", "views": PACE_VIEWS, "head": "head_dim=hidden dropout"},
    "rotation": {"clips": "clip_frames stride", "views": ROTATION_VIEWS, "head": "head_dim=hidden dropout"},
}
KEPT: dict[str, str] = {
    "cvrl": "temperature reduction same_view_negatives normalize gather grad_scale",
    "simclr": "temperature",
    "moco": "queue_size momentum momentum_schedule temperature symmetric mix mix_alpha mix_weighting",
    "byol": "momentum momentum_schedule mix mix_alpha",
    "swav": "num_prototypes epsilon iterations temperature freeze_steps queue_size queue_epoch",
    "pirl": "num_sources jigsaw_weight num_negatives temperature memory_momentum loss",
    "supervised": "classes label dropout label_smoothing freeze",
    "tcgl": "num_frame_sets dct_highpass bn_grouping bn_statistics temperature w_intra w_inter w_order",
    "vcop": "bn_grouping",
    "opn": "bn_grouping",
    "vcp": "bn_grouping",
    "shuffle_learn": "bn_grouping",
    "arrow_of_time": "",
    "pace": "contrast_weight temperature out_dim",
    "rotation": "copies",
}


def new_names(method: str) -> dict[str, str]:
    """SECTION.NAME by the name of version 0.1, of what a part has now."""
    sections = {**MOVED[method], "objects": OBJECTS}
    pairs = [(section, *word.partition("=")) for section, words in sections.items() for word in words.split()]
    return {old: f"{section}.{new or old}" for section, old, _, new in pairs}


def test_the_table_has_every_method() -> None:
    assert MOVED.keys() == KEPT.keys() <= set(list_methods())
    assert sum(len(new_names(method)) + len(KEPT[method].split()) for method in MOVED) == 677


@pytest.mark.parametrize("method", MOVED)
def test_old_options_are_answered_with_their_new_names(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["pretrain", "nowhere", "--method", method, "--list-settings", "--json"]
    names = new_names(method)
    for old, new in names.items():
        with pytest.raises(UsageError, match=rf"^method\.{old} is now {new}: write --{new}$"):
            resolve([Layer(COMMAND_LINE, {"method": {"name": method, old: 1}})])
    old, new = next(iter(names.items()))
    assert main([*call, f"--method.{old}", "1"]) == 2
    assert f"method.{old} is now {new}: write --{new}" in capsys.readouterr().err

    assert main(call) == 0
    before = {row["setting"]: row["value"] for row in json.loads(capsys.readouterr().out)["settings"]}
    options = [*names.values(), *(f"method.{name}" for name in KEPT[method].split())]
    assert main([*call, *(word for name in options for word in (f"--{name}", before[name]))]) == 0
    after = {row["setting"]: row for row in json.loads(capsys.readouterr().out)["settings"]}
    for name in options:
        assert (after[name]["value"], after[name]["origin"]) == (before[name], "command line")


@pytest.mark.parametrize("method", MOVED)
def test_recipes_and_runs_of_version_0_1_are_read(method: str, tmp_path: Path) -> None:
    """With everything in the section ``method``, and the method's own settings where they are."""
    whole = resolve(load_recipe(f"{method}_small").layers)
    names = {old: tuple(new.split(".")) for old, new in new_names(method).items()}
    names |= {name: ("method", name) for name in KEPT[method].split()}
    plain = whole.to_plain()
    old = {"method": {"name": method} | {name: plain[section][key] for name, (section, key) in names.items()}}
    rest = {section: plain[section] for section in ("encoder", "optimizer", "train")}
    path = tmp_path / "old.yaml"
    path.write_text(json.dumps(old | rest), encoding="utf-8")  # JSON is YAML
    again = resolve(load_recipe(path).layers)
    assert again.to_plain() == plain
    assert {again.origins[section][key] for section, key in names.values()} == {"recipe old"}
