"""Where a run starts, and what it holds out: settings of every recipe (docs/methods/tcgl.md, Where we differ)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import unreel
from unreel.cli.main import main
from unreel.core.errors import DataError, UsageError
from unreel.core.settings import Layer
from unreel.data.manifest import Manifest
from unreel.nn import create_encoder
from unreel.nn.initial import initial_weights
from unreel.nn.weights import save_encoder
from unreel.recipes.build import list_all, prepare
from unreel.train.backend import Backend
from unreel.train.options import Keeping, Training
from unreel.train.run import Run, pretrain

SMALL: dict[str, Any] = {
    "train": {"steps": 1, "warmup_epochs": 0, "batch_size": 4, "workers": 0, "device": "cpu"},
    **{"views.size": 16, "clip_frames": 4, "hidden_dim": 8, "out_dim": 4},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as a run leaves it, of an encoder that sees clips without their mean over time."""
    encoder = create_encoder("r3d_tiny", seed=42, dct_highpass=1)
    return save_encoder(encoder, tmp_path_factory.mktemp("weights") / "encoder.safetensors", {"pretraining": {}})


def equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[n], b[n]) for n in a)


def test_check_16_a_run_starts_from_weights_and_their_pixels(tiny_world: Path, saved: Path) -> None:
    start = prepare("cvrl", tiny_world, call={**SMALL, "encoder.weights": str(saved)})
    assert equal(start.method.encoder.state_dict(), unreel.load_encoder(saved).state_dict())
    assert start.method.encoder.input_spec.dct_highpass == 1  # travels with the weights
    assert start.method.encoder.input_spec.size_px == 16  # the method's
    config = start.settings.to_plain()["encoder"]
    assert config["weights"] == str(saved)
    assert isinstance(config["weights_digest"], str)
    fresh = prepare("cvrl", tiny_world, call=SMALL)
    assert not equal(start.method.encoder.state_dict(), fresh.method.encoder.state_dict())
    # The same through a run's folder, with a net of one's own, and from the settings written down.
    own = create_encoder("r3d_tiny", seed=1)
    prepare("cvrl", tiny_world, encoder=own, call={**SMALL, "encoder.weights": str(saved.parent)})
    assert equal(own.state_dict(), start.method.encoder.state_dict())
    again = prepare(None, tiny_world, call=SMALL, overrides=[Layer("call", {"encoder": dict(config)})])
    assert equal(again.method.encoder.state_dict(), start.method.encoder.state_dict())


def test_other_weights_under_the_old_name_are_refused(tmp_path: Path) -> None:
    file = save_encoder(create_encoder("r3d_tiny", seed=1), tmp_path / "encoder.safetensors")
    encoder = create_encoder("r3d_tiny", seed=0)
    report = initial_weights(encoder, weights=str(file))
    assert report is not None
    save_encoder(create_encoder("r3d_tiny", seed=2), file)
    with pytest.raises(UsageError, match="holds other weights"):
        initial_weights(encoder, weights=str(file), weights_digest=report.digest)
    assert initial_weights(encoder) is None


@pytest.mark.parametrize("wrapping", ["base_network.", "module.base_network."])
def test_p2_wrapped_checkpoints_load_whole_or_not_at_all(wrapping: str, tmp_path: Path) -> None:
    source = create_encoder("r3d_tiny", seed=3).state_dict()
    wrapped = {wrapping + n: t for n, t in source.items()}
    torch.save({**wrapped, "order_head.weight": torch.ones(2)}, tmp_path / "model.pt")
    encoder = create_encoder("r3d_tiny", seed=0)
    initial_weights(encoder, weights=str(tmp_path / "model.pt"))
    assert equal(encoder.state_dict(), source)
    part = {n: t + 1 for n, t in wrapped.items()}
    part.popitem()
    part.pop(next(iter(part)))
    torch.save(part, tmp_path / "part.pt")
    with pytest.raises(UsageError, match="does not fit"):
        initial_weights(encoder, weights=str(tmp_path / "part.pt"))
    assert equal(encoder.state_dict(), source)


def test_p3_another_depth_is_refused_with_the_reason(
    tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = save_encoder(
        create_encoder("r3d_18", layers=(2, 1, 1, 1), width=16, seed=0), tmp_path / "encoder.safetensors"
    )
    call = {**SMALL, "encoder.weights": str(deep), "encoder.width": 16}
    with pytest.raises(UsageError, match=r"deeper: it has layer1\.1.*build it with that depth"):
        prepare("cvrl", tiny_world, encoder="r3d_18", call={**call, "encoder.layers": [1, 1, 1, 1]})
    with pytest.raises(UsageError, match="shallower"):
        prepare("cvrl", tiny_world, encoder="r3d_18", call={**call, "encoder.layers": [2, 2, 1, 1]})
    wide = {"encoder.layers": [2, 1, 1, 1], "encoder.width": 32}
    with pytest.raises(UsageError, match="other widths"):
        prepare("cvrl", tiny_world, encoder="r3d_18", call={**call, **wide})
    command = [
        "pretrain",
        str(tiny_world),
        "--out",
        str(tmp_path / "run"),
        "--encoder.name",
        "r3d_18",
        "--encoder.width",
        "16",
    ]
    command += ["--encoder.layers", "[1, 1, 1, 1]", "--encoder.weights", str(deep), "--json"]
    assert main(command) == 2
    assert "deeper" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="no checkpoint"):
        prepare("cvrl", tiny_world, call={**SMALL, "encoder.weights": str(tmp_path / "nowhere.safetensors")})


def test_it_is_a_setting_of_every_recipe() -> None:
    rows = {r["setting"]: r for r in list_all("cvrl_small")}
    assert rows["encoder.weights"]["value"] == "none"
    assert rows["train.validation"]["value"] == "0"
    assert rows["train.select"]["value"] == "last"
    assert "plateau" in rows["train.schedule"]["may_be"]


def test_validation_is_cut_from_the_training_rows(tiny_world: Path) -> None:
    manifest = Manifest.open(tiny_world)
    train = manifest.select(split="train")
    none = prepare("cvrl", manifest, call=SMALL)
    assert none.validation is None
    held = prepare("cvrl", manifest, call={**SMALL, "validation": 0.25})
    assert held.validation is not None
    paths = [{r.path for r in m} for m in (held.manifest, held.validation.dataset.manifest)]
    assert not paths[0] & paths[1]
    assert paths[0] | paths[1] == {r.path for r in train}
    assert len(paths[1]) >= 4
    assert held.settings["data"]["digest"] == none.settings["data"]["digest"]
    split = prepare("cvrl", manifest, call={**SMALL, "validation": "test"})
    assert split.validation is not None
    assert len(split.manifest) == len(train)
    assert all(r.split == "test" for r in split.validation.dataset.manifest)
    both = prepare("cvrl", manifest, call={**SMALL, "validation": "test", "data": {"split": "all"}})
    assert {r.split for r in both.manifest} == {"train"}  # what is measured on is not learnt from
    with pytest.raises(DataError, match="no row is in split 'val'"):
        prepare("cvrl", manifest, call={**SMALL, "validation": "val"})
    with pytest.raises(UsageError, match="needs held-out videos"):
        unreel.pretrain("cvrl", manifest, out="nowhere", schedule="plateau", **SMALL)


def run(data: Path, out: Path, **call: Any) -> Run:
    """As ``unreel.pretrain``, without the report."""
    found = prepare("cvrl", data, call=call)
    training, backend, keeping = (
        kind(**found.settings.arguments("train", kind)) for kind in (Training, Backend, Keeping)
    )
    return pretrain(
        found.method,
        found.loader,
        found.optimizer,
        out=out,
        training=training,
        device=backend,
        keeping=keeping,
        settings=found.settings,
        validate=found.validation,
    )


def test_a_run_with_everything_stops_and_goes_on(tiny_world: Path, tmp_path: Path) -> None:
    call = replace_steps(SMALL, 8) | {
        "validation": 4,
        "validate_every": 0.5,
        "select": "val_loss",
        "schedule": "plateau",
        "plateau_patience": 0,
        "log_every": 1,
    }
    whole = run(tiny_world, tmp_path / "a", **call)
    assert sum("val_loss" in r for r in whole.metrics()) >= 3
    assert not run(tiny_world, tmp_path / "b", **replace_steps(call, 8, stop_after=4)).completed
    again = run(tiny_world, tmp_path / "b", **call)
    assert equal(again.load_encoder().state_dict(), whole.load_encoder().state_dict())
    told = [{name: r.get(name) for name in ("step", "lr", "val_loss")} for r in whole.metrics()]
    assert [{name: r.get(name) for name in told[0]} for r in again.metrics()] == told
    # The rate is a tenth after each loss that is not the best so far.
    rate, best = told[0]["lr"], float("inf")
    for record in told:
        assert record["lr"] == pytest.approx(rate)
        if (loss := record["val_loss"]) is not None:
            rate, best = (rate, loss) if loss < best else (rate / 10, best)
    assert told[-1]["lr"] < told[0]["lr"]


def replace_steps(call: Mapping[str, Any], steps: int, **more: Any) -> dict[str, Any]:
    return {**call, "train": {**call["train"], "steps": steps, **more}}


def test_multistep_counts_epochs(tiny_world: Path, tmp_path: Path) -> None:
    call = replace_steps(SMALL, 6, schedule="multistep", milestones=[0.5, 1], milestone_factor=0.5, log_every=1)
    found = run(tiny_world, tmp_path, optimizer={"lr": 0.08}, **call)
    assert [r["lr"] for r in found.metrics()] == pytest.approx([0.08, 0.08, 0.04, 0.04, 0.02, 0.02])
