"""Encoders on disk, and foreign checkpoints: prefixes, heads, depth, refusals."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from unreel.core.errors import DataError, UsageError
from unreel.core.files import WriteError
from unreel.nn import Encoder, InputSpec, create_encoder, load_encoder, load_weights, read_card, save_encoder
from unreel.nn import weights as weights_module
from unreel.nn.matching import PREFIXES, best_prefix, tensors_digest
from unreel.train.checkpoint import Checkpoints


def tiny(seed: int = 0, **arguments: object) -> Encoder:
    return create_encoder("r3d_tiny", seed=seed, **arguments)


def same(a: Encoder, b: Encoder) -> bool:
    return all(torch.equal(t, b.state_dict()[n]) for n, t in a.state_dict().items())


def copied(encoder: Encoder, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + n: t.clone() for n, t in encoder.state_dict().items()}


# -- our own files -------------------------------------------------------------------------------------------------


def test_the_card_holds_what_builds_the_encoder_again(tmp_path: Path) -> None:
    encoder = tiny(stem_channels=8)
    path = save_encoder(encoder, tmp_path / "runs" / "a.safetensors", {"method": "cvrl"})
    card = read_card(path)
    assert card["method"] == "cvrl"
    assert card["architecture"] == "r3d_tiny"
    assert card["arguments"]["stem_channels"] == 8
    assert card["input_spec"]["size_px"] == 48
    assert card["digest"] == tensors_digest(encoder.state_dict())
    json.dumps(card)
    loaded = load_encoder(path)
    assert not loaded.training
    assert same(encoder, loaded)
    assert all(p.requires_grad for p in loaded.parameters())


def test_dtype_and_memory_format_survive(tmp_path: Path) -> None:
    encoder = tiny().double().to(memory_format=torch.channels_last_3d)
    save_encoder(encoder, tmp_path)
    loaded = load_encoder(tmp_path)
    assert same(encoder, loaded)
    assert loaded.get_parameter("stem.0.weight").dtype == torch.float64


def test_weights_read_from_any_file_own_aligned_memory(tmp_path: Path) -> None:
    whole = torch.arange(7.0)  # two tensors of one memory, as flattened checkpoints have them
    state = {"odd": torch.ones(3), "a": whole[1:4].clone(), "b": torch.ones(5, 3, 1, 1), "count": torch.tensor(3)}
    save_file(state, tmp_path / "one.safetensors")
    torch.save({**state, "a": whole[1:4], "c": whole[4:]}, tmp_path / "two.pt")
    for name in ("one.safetensors", "two.pt"):
        read = weights_module.read_state(tmp_path / name)
        assert all(torch.equal(read[n], t) for n, t in state.items())
        for tensor in read.values():
            assert tensor.data_ptr() % 64 == 0
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_full_width_loaded_gives_the_bits_of_the_saved(tmp_path: Path) -> None:
    encoder = create_encoder("r3d_50", seed=0).eval()
    loaded = load_encoder(save_encoder(encoder, tmp_path))
    clips = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(clips), encoder(clips))
    assert all(t.data_ptr() % 64 == 0 for t in loaded.state_dict().values())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tiny(1)
    path = save_encoder(old, tmp_path)

    write = Path.write_bytes

    def broken(target: Path, content: bytes) -> None:
        write(target, content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(WriteError, match="cannot be written: no space left on device"):
        save_encoder(tiny(2), tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert same(old, load_encoder(path))


@pytest.mark.parametrize("card", [{"architecture": "mine"}, {"scores": torch.zeros(2)}])
def test_a_card_that_cannot_be_is_refused(card: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        save_encoder(tiny(), tmp_path, card)
    assert not list(tmp_path.iterdir())


def test_missing_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no encoder"):
        load_encoder(tmp_path)
    path = save_encoder(tiny(), tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"encoder\.safetensors"):
        load_encoder(path)
    (tmp_path / "fake.safetensors").write_text("not at all")
    expected = r"fake\.safetensors is not a readable .*Expected an encoder that unreel wrote: a finished run's folder"
    with pytest.raises(DataError, match=expected):
        load_encoder(tmp_path / "fake.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(DataError, match="load_weights"):
        load_encoder(tmp_path / "foreign.safetensors")


def test_a_file_from_a_newer_version_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as m:
        m.setattr(weights_module, "_FORMAT", weights_module._FORMAT + 1)
        path = save_encoder(tiny(), tmp_path)
    with pytest.raises(DataError, match="newer"):
        load_encoder(path)


def test_a_card_of_the_first_format_keeps_its_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = InputSpec.to_card
    with monkeypatch.context() as m:
        m.setattr(weights_module, "_FORMAT", 1)
        m.setattr(
            InputSpec,
            "to_card",
            lambda spec: {**{k: v for k, v in written(spec).items() if k != "dct_highpass"}, "remove_dc": True},
        )
        path = save_encoder(tiny(), tmp_path)
    assert load_encoder(path).input_spec.dct_highpass == 1


# -- checkpoints from elsewhere ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", sorted({p for ps in PREFIXES.values() for p in ps} | {"a.b.backbone."}))
def test_every_known_and_unknown_prefix_is_found(prefix: str) -> None:
    target, source = tiny(1), tiny(2)
    report = load_weights(target, copied(source, prefix))
    assert report.coverage == 1
    assert report.prefix == prefix
    assert same(target, source)


@pytest.mark.parametrize("source", sorted(PREFIXES))
def test_a_named_source_strips_its_own_prefix(source: str) -> None:
    target, origin = tiny(1), tiny(2)
    report = load_weights(target, copied(origin, PREFIXES[source][0]), source)
    assert (report.source, report.coverage) == (source, 1.0)
    assert same(target, origin)


def test_moco_gives_the_query_encoder_and_drops_heads_and_queue() -> None:
    query, key, target = tiny(1), tiny(2), tiny(3)
    state = {**copied(key, "module.encoder_k."), **copied(query, "module.encoder_q.")}
    state["module.encoder_q.fc.weight"] = torch.zeros(128, 2048)
    state["module.queue"] = torch.zeros(128, 10)
    report = load_weights(target, {"epoch": 3, "state_dict": state})
    assert same(target, query)
    assert not report.unexpected
    assert "module.queue" in report.dropped
    assert "module.encoder_q.fc.weight" in report.dropped
    assert report.digest == tensors_digest({n: t for n, t in query.state_dict().items() if "num_batches" not in n})


def test_a_vissl_checkpoint_is_unwrapped(tmp_path: Path) -> None:
    origin, target = tiny(1), tiny(2)
    trunk = copied(origin, "_feature_blocks.")
    torch.save({"classy_state_dict": {"base_model": {"model": {"trunk": trunk}}}}, tmp_path / "a.torch")
    assert load_weights(target, tmp_path / "a.torch", "vissl").coverage == 1
    assert same(origin, target)


def test_a_runs_own_checkpoint_gives_its_encoder(tmp_path: Path) -> None:
    origin, target = tiny(1), tiny(2)
    state = {**copied(origin, "encoder."), "head.weight": torch.zeros(2, 2)}
    saved = Checkpoints(tmp_path).save({"step": 3, "method": state, "optimizer": {}, "scaler": {}}, settings={"a": 1})
    report = load_weights(target, saved)
    assert (report.coverage, report.prefix, report.dropped) == (1, "encoder.", ("head.weight",))
    assert same(origin, target)


def test_files_of_both_formats_load(tmp_path: Path) -> None:
    origin = tiny(1)
    torch.save({"model": copied(origin, "module.")}, tmp_path / "a.pth")
    save_encoder(origin, tmp_path)
    for path in (tmp_path / "a.pth", tmp_path / "encoder.safetensors", tmp_path):
        target = tiny(2)
        load_weights(target, path)
        assert same(origin, target)


class Payload:
    """Something that a weights-only reader must not build."""


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": copied(tiny()), "config": Payload()}, tmp_path / "a.pth")
    with pytest.raises(DataError, match="pickled code"):
        load_weights(tiny(), tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"nonsense")
    with pytest.raises(DataError):
        load_weights(tiny(), tmp_path / "b.pth")
    with pytest.raises(DataError, match="no checkpoint"):
        load_weights(tiny(), tmp_path / "c.pth")
    with pytest.raises(DataError, match="no state dict"):
        load_weights(tiny(), {"epoch": 1, "note": "x"})


def test_counters_are_optional() -> None:
    origin, target = tiny(1), tiny(2)
    state = {n: t for n, t in copied(origin).items() if "num_batches" not in n}
    assert load_weights(target, state).coverage == 1


def refused(target: Encoder, state: dict[str, Tensor], **options: object) -> str:
    """The message of a refusal that left the encoder as it was."""
    before = {n: t.clone() for n, t in target.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        load_weights(target, state, **options)
    assert all(torch.equal(before[n], t) for n, t in target.state_dict().items())
    return str(caught.value)


def test_no_match_is_refused_with_counts_and_names() -> None:
    message = refused(tiny(), {"backbone_net.weight": torch.zeros(3), "b": torch.zeros(1)})
    assert "0 of 65 tensors match" in message
    assert "stem.0.weight" in message
    assert "2 unexpected: backbone_net.weight, b" in message
    assert "another architecture" in message


def test_another_depth_is_refused_both_ways_with_the_reason() -> None:
    shallow, deep = tiny(1), tiny(2, layers=(1, 2, 1, 1))
    message = refused(shallow, copied(deep), min_coverage=0.1)
    assert "deeper" in message
    assert "res3.1" in message
    message = refused(deep, copied(shallow))
    assert "shallower" in message
    assert "res3.1" in message


def test_other_shapes_are_refused_with_the_reason() -> None:
    state = copied(tiny(1))
    message = refused(tiny(2, in_channels=1), state)
    assert "3 channels there, the encoder 1" in message
    assert "[16, 3, 3, 5, 5] instead of [16, 1, 3, 5, 5]" in message
    long = refused(tiny(2, stem_kernel=(5, 5, 5)), state)
    assert "span 3 frames, the encoder's 5" in long
    flat = {n: t.sum(2) if t.ndim == 5 else t for n, t in state.items()}
    assert "inflate=" in refused(tiny(2), flat)
    assert load_weights(tiny(2), flat, inflate="mean").coverage == 1


def test_a_partial_match_loads_only_when_asked() -> None:
    origin, target = tiny(1), tiny(2)
    state = {n: t for n, t in copied(origin).items() if not n.startswith("res5")}
    refused(target, state)
    report = load_weights(target, state, min_coverage=0.5)
    assert report.coverage == pytest.approx(50 / 65)
    assert all(n.startswith("res5") for n in report.missing)
    assert torch.equal(target.get_parameter("stem.0.weight"), origin.get_parameter("stem.0.weight"))
    assert not torch.equal(target.get_parameter("res5.0.conv1.weight"), origin.get_parameter("res5.0.conv1.weight"))


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UsageError, match="moco"):
        load_weights(tiny(), {}, "mocco")
    with pytest.raises(UsageError, match="min_coverage"):
        load_weights(tiny(), copied(tiny()), min_coverage=0)


def test_the_prefix_that_matches_most_wins() -> None:
    assert best_prefix(["module.a", "module.b", "a"], ["a", "b"], "auto") == "module."
    assert best_prefix(["a", "b", "module.a"], ["a", "b"], "auto") == ""


# -- the snippet-order papers' checkpoints (docs/methods/tcgl.md, Where we differ) ------------------------------------


def order_net(name: str, seed: int, **arguments: object) -> Encoder:
    return create_encoder(name, width=2, seed=seed, **arguments)


def public_names(encoder: Encoder) -> dict[str, Tensor]:
    """The state under the names of VCOP's and TCGL's public code; written from the other side than the loader's."""
    factored = encoder.architecture == "r2plus1d_18"
    if encoder.architecture == "c3d":
        return copied(encoder)

    def convolution(parts: list[str]) -> list[str]:
        halves = {"0": "spatial_conv", "1": "bn", "3": "temporal_conv"}
        return [halves[parts[0]], *parts[1:]] if factored else ["temporal_spatial_conv", *parts]

    names: dict[str, Tensor] = {}
    for name, tensor in copied(encoder).items():
        top, *parts = name.split(".")
        if top == "stem":
            norm = "4" if factored else "1"
            if parts[0] == norm:
                new = ["bn1", *parts[1:]]
            else:
                new = ["conv1", *convolution(parts if factored else parts[1:])]
        else:
            block, layer, position, *rest = parts
            new = [f"conv{int(top[-1]) + 1}", *(["block1"] if block == "0" else ["blocks", str(int(block) - 1)])]
            if position == "1":
                new += ["downsamplebn" if layer == "downsample" else layer.replace("conv", "bn"), *rest]
            else:
                new += ["downsampleconv" if layer == "downsample" else layer, *convolution(rest)]
        names[".".join(new)] = tensor
    assert len(names) == len(encoder.state_dict())
    return names


@pytest.mark.parametrize("prefix", ["module.base_network.", "base_network.", "module.", ""])
@pytest.mark.parametrize("name", ["c3d", "r3d_18", "r2plus1d_18"])
def test_check_16_prefixes_and_public_names(name: str, prefix: str) -> None:
    depth = {} if name == "c3d" else {"layers": (1, 2, 1, 1)}
    origin, target = order_net(name, 1, **depth), order_net(name, 2, **depth)
    for source, state in (("auto", copied(origin)), ("tcgl", public_names(origin)), ("auto", public_names(origin))):
        for parameter in target.parameters():
            parameter.data.zero_()
        outer = prefix.removesuffix("base_network.")
        heads = {f"{outer}gcn_inter.weight": torch.zeros(2, 2)} if "base" in prefix else {}
        heads |= {f"{prefix}linear.weight": torch.zeros(7, 16)}
        report = load_weights(target, {prefix + n: t for n, t in state.items()} | heads, source)
        assert report.coverage == 1
        assert report.prefix == prefix
        assert not report.unexpected
        assert sorted(report.dropped) == sorted(heads)
        assert same(target, origin)


def test_check_16_public_names_are_as_published() -> None:
    """Names read off the public code; a mistake shared by both translations would show here."""
    whole = public_names(order_net("r3d_18", 0))
    factored = public_names(order_net("r2plus1d_18", 0))
    assert {
        "conv1.temporal_spatial_conv.weight",
        "bn1.running_mean",
        "conv2.block1.conv1.temporal_spatial_conv.weight",
        "conv2.blocks.0.bn2.weight",
        "conv5.block1.downsampleconv.temporal_spatial_conv.weight",
        "conv5.block1.downsamplebn.bias",
    } <= whole.keys()
    assert {
        "conv1.spatial_conv.weight",
        "conv1.bn.weight",
        "conv1.temporal_conv.weight",
        "bn1.weight",
        "conv3.block1.conv1.bn.running_var",
        "conv3.block1.downsampleconv.bn.weight",
        "conv3.blocks.0.conv2.temporal_conv.weight",
    } <= factored.keys()


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18"])
@pytest.mark.parametrize("prefix", ["module.base_network.", "base_network.", "module.", ""])
def test_check_16_another_depth_is_refused_with_both(name: str, prefix: str) -> None:
    nets = [order_net(name, 0, layers=layers) for layers in ((1, 1, 1, 1), (2, 2, 2, 2), (3, 4, 6, 3))]
    depths = ["(1, 1, 1, 1)", "(2, 2, 2, 2)", "(3, 4, 6, 3)"]
    for i, origin in enumerate(nets):
        for j, target in enumerate(nets):
            if i == j:
                continue
            for state in (copied(origin), public_names(origin)):
                message = refused(
                    target, {prefix + n: t for n, t in state.items()}, min_coverage=0.05 if i > j else 1.0
                )
                assert f"the checkpoint holds layers {depths[i]}, the encoder has {depths[j]}" in message
                assert ("deeper" if i > j else "shallower") in message


def test_check_16_another_net_of_the_family_is_refused() -> None:
    nets = {name: order_net(name, 0) for name in ("c3d", "r3d_18", "r2plus1d_18")}
    for one, origin in nets.items():
        for two, target in nets.items():
            if one != two:
                refused(target, copied(origin))
                refused(target, public_names(origin), source="vcop")


@pytest.mark.parametrize("removed", [0, 1, 3])
def test_check_16_the_removed_frequencies_travel_with_the_file(removed: int, tmp_path: Path) -> None:
    for name in ("c3d", "r3d_18", "r2plus1d_18"):
        path = save_encoder(order_net(name, 0, dct_highpass=removed), tmp_path / f"{name}.safetensors")
        loaded = load_encoder(path)
        assert loaded.input_spec.dct_highpass == removed
        assert read_card(path)["arguments"]["dct_highpass"] == removed
        clips = torch.rand(1, 3, 8, 16, 16)
        lowest = loaded.prepare(clips).mean(2).abs().max()
        assert (lowest < 1e-6) == (removed > 0)
