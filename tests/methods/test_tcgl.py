"""TCGL: head counts, classes, gate, frame-sets, corruption, gradients, the leak, batching, learning; two processes.

Source: docs/methods/tcgl.md.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.methods.clips import loader, rows_of
from tests.methods.tcgl_clips import TINY_ENCODER, snippet_batch, tiny_tcgl
from unreel.core import distributed
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.core.settings import Layer, defaults
from unreel.data.batch import Batch
from unreel.data.snippets import SnippetSampler, permutations
from unreel.losses import node_info_nce
from unreel.methods import TCGL, create_method, list_methods
from unreel.methods.tcgl import OrderHead, OrderSettings, SnippetGate
from unreel.nn import create_encoder
from unreel.nn.encoder import dct_highpass
from unreel.nn.graph import chain, normalized_adjacency, order_graph
from unreel.recipes import load_recipe
from unreel.recipes.schema import resolve
from unreel.train import build_optimizer, fit
from unreel.train.backend import distribute
from unreel.views.presets import snippet_views

# --- settings ---------------------------------------------------------------------------------------------------


def head_parameters(**options: Any) -> int:
    encoder = create_encoder("r3d_tiny", channels=(2, 2, 2, 512), stem_channels=2)
    with torch.device("meta"):
        method = create_method("tcgl", encoder, **options)
    return sum(p.numel() for n, p in method.named_parameters() if not n.startswith("encoder."))


def test_check_1_head_counts() -> None:
    gcn, projector, gate, fc, classes = 262_656, 525_312, 1_575_168, 786_944, 3_078
    assert head_parameters() == 3_941_126 == 4 * gcn + projector + gate + fc + classes
    assert head_parameters(head_graph="order") == 3_941_126
    # Only what is used is made.
    assert head_parameters(adaptive=False) == 3_941_126 - gate
    assert head_parameters(proj="none") == 3_941_126 - projector
    assert head_parameters(share_intra_gcn=True) == 3_941_126 - 2 * gcn
    assert head_parameters(gcn_layers=2) == 3_941_126 + gcn
    assert head_parameters(num_frame_sets=1) == head_parameters(w_intra=0) == 3_941_126 - 3 * gcn
    assert head_parameters(w_order=0) == head_parameters(w_order=0, gcn_layers=2) == 4 * gcn + projector
    assert head_parameters(w_intra=0, w_inter=0) == gcn + gate + fc + classes
    assert head_parameters(w_inter=0, w_order=0) == 3 * gcn + projector
    assert head_parameters(gnn="gat") == 3_941_126 + 4 * 2 * 512
    # n = 2 and 4: gates of 256 inside, n! classes
    assert (
        head_parameters(num_snippets=2)
        == 3 * gcn + projector + 2 * (1024 * 256 + 256 + 256 * 512 + 512) + (1024 * 512 + 512) + 513 * 2
    )
    assert (
        head_parameters(num_snippets=4)
        == 5 * gcn + projector + 4 * (2048 * 256 + 256 + 256 * 512 + 512) + (2048 * 512 + 512) + 513 * 24
    )


def test_defaults_are_the_papers_but_for_the_leak() -> None:
    rest = {"encoder": {"name": "r3d_tiny"}, "train": {"batch_size": 4}}
    settings = resolve([Layer("test", {"method": {"name": "tcgl"}, **rest})]).to_plain()
    found = {key: value for section in ("method", *TCGL.parts) for key, value in settings[section].items()}
    paper = {
        "num_snippets": 3, "clip_frames": 16, "interval": 8, "num_frame_sets": 4, "size": 112, "resize": [128, 171],
        "crop_per": "snippet", "dct_highpass": 1, "bn_grouping": "per_call", "intra_edges": "chain",
        "inter_edges": "order", "p_edge": 0.2, "p_feat": 0.1, "which": "second", "kind": "both",
        "noise_std": 1.0, "edge_drop": "directed", "edge_mask_scope": "batch", "gnn": "gcn", "gcn_layers": 1,
        "share_intra_gcn": False, "gcn_act": "none", "hidden": 512, "proj": "elu", "temperature": 0.5,
        "adaptive": True, "gate_hidden": 256, "dropout": 0.5, "w_intra": 1.0, "w_inter": 1.0, "w_order": 1.0,
        "flip_p": 0.0, "jitter_p": 0.0,
    }  # fmt: skip
    assert {name: found[name] for name in paper} == paper
    assert found["head_graph"] == "position_chain"
    assert "num_views" not in found
    method = create_method("tcgl", create_encoder("r3d_tiny"))
    assert repr(method.sampler) == repr(SnippetSampler(3, 16, 8))
    assert method.views == snippet_views(3)
    assert method.validation_views is not None
    spec = method.encoder.input_spec
    assert (spec.num_frames, spec.stride_frames, spec.size_px, spec.dct_highpass) == (16, 1, 112, 1)


def test_view_options_reach_the_views() -> None:
    method = tiny_tcgl(size=14, resize=(15, 20), flip_p=0.5, jitter_p=0.8, crop_per="tuple")
    assert method.views == snippet_views(3, size=14, resize=(15, 20), flip_p=0.5, jitter_p=0.8, crop_per="tuple")
    assert method.validation_views == snippet_views(3, size=14, resize=(15, 20), crop="center", crop_per="tuple")
    with pytest.raises(UsageError, match="flp_p"):
        tiny_tcgl(flp_p=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_graph": "ordr"}, "head_graph must be one of .*'ordr'; did you mean 'order'"),
        ({"num_snippets": 5}, "takes 2, 3 or 4 snippets, got 5"),
        ({"num_frame_sets": 3}, "num_frame_sets must be one of 1, 2, 4, 8, got 3"),
        ({"clip_frames": 6}, "6 frames cannot be cut into 4 equal frame-sets"),
        ({"clip_frames": 4}, "frame-sets of 1 frames have nothing left once their 1 lowest"),
        ({"clip_frames": 16, "num_frame_sets": 8, "dct_highpass": 2}, "frame-sets of 2 frames have nothing left"),
        ({"clip_frames": 1, "w_intra": 0}, "snippets of 1 frames have nothing left"),
        ({"w_intra": 0, "w_inter": 0, "w_order": 0}, "there is nothing to learn"),
        ({"num_frame_sets": 1, "w_inter": 0, "w_order": 0}, "there is nothing to learn"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny_tcgl(**options)


def test_the_high_pass_is_set_in_one_place() -> None:
    assert tiny_tcgl(dct_highpass=0).encoder.input_spec.dct_highpass == 0
    assert create_method("tcgl", create_encoder("r3d_tiny", dct_highpass=1)).encoder.input_spec.dct_highpass == 1
    for built, asked in ((1, 0), (2, 1)):
        with pytest.raises(UsageError, match=f"built with dct_highpass={built}, the method with {asked}"):
            create_method("tcgl", create_encoder("r3d_tiny", dct_highpass=built), dct_highpass=asked)
    assert "tcgl" in list_methods()
    assert isinstance(create_method("tcgl", create_encoder("r3d_tiny"), seed=0), TCGL)


KNOBS: list[dict[str, Any]] = [
    {}, {"num_snippets": 2}, {"num_snippets": 4}, {"num_frame_sets": 1}, {"num_frame_sets": 2},
    {"num_frame_sets": 8, "clip_frames": 16}, {"dct_highpass": 0}, {"dct_highpass": 2, "num_frame_sets": 2},
    {"bn_grouping": "joint"}, {"bn_statistics": "snippets"},
    {"intra_edges": "full"}, {"intra_edges": "random"}, {"inter_edges": "position_chain"},
    {"inter_edges": "full"}, {"inter_edges": "random"}, {"head_graph": "order"}, {"head_graph": "full"},
    {"head_graph": "none"}, {"which": "both"}, {"kind": "edges"}, {"kind": "nodes"},
    {"kind": "noise"}, {"edge_drop": "undirected"}, {"edge_mask_scope": "sample"}, {"gnn": "gat"},
    {"gnn": "gat", "head_graph": "none", "w_inter": 0, "gcn_layers": 2}, {"gcn_layers": 2}, {"share_intra_gcn": True},
    {"gcn_act": "relu"}, {"gcn_act": "elu", "gcn_layers": 2}, {"proj": "relu"}, {"proj": "none"}, {"adaptive": False},
    {"dropout": 0.0}, {"w_intra": 0}, {"w_inter": 0}, {"w_order": 0}, {"w_intra": 0, "w_inter": 0},
    {"w_intra": 0, "w_order": 0}, {"w_inter": 0, "w_order": 0},
]  # fmt: skip


@pytest.mark.parametrize("options", KNOBS, ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()) or "defaults")
def test_check_12_every_knob_trains_every_parameter(options: dict[str, Any]) -> None:
    method = tiny_tcgl(**options)
    batch = snippet_batch(3, snippets=options.get("num_snippets", 3), frames=options.get("clip_frames", 8))
    output = method(batch)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    silent = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


def test_activations() -> None:
    default, other = tiny_tcgl(), tiny_tcgl(proj="relu", gcn_act="elu")
    assert [type(m) for m in default.projector.children()] == [nn.Linear, nn.ELU, nn.Linear]
    assert [type(m) for m in other.projector.children()] == [nn.Linear, nn.ReLU, nn.Linear]
    assert isinstance(tiny_tcgl(proj="none").projector, nn.Identity)
    assert (type(default.gcn_act), type(other.gcn_act)) == (nn.Identity, nn.ELU)
    x, a = torch.randn(2, 1, 3, 12, generator=torch.Generator().manual_seed(0)), chain(3)
    torch.testing.assert_close(
        other.convolve(other.gcn_inter, x, a), nn.functional.elu(default.convolve(default.gcn_inter, x, a))
    )


def test_recipes_say_which_graph_the_head_gets() -> None:
    graphs = dict.fromkeys(("tcgl_ucf101", "tcgl_hmdb51", "tcgl_k400"), "order") | {"tcgl_small": "position_chain"}
    for name, graph in graphs.items():
        sections = load_recipe(name).sections
        chosen = {s: v for s, v in sections.items() if s in TCGL.parts}
        options = {n: v for n, v in sections["method"].items() if n != "name"}
        encoder = {n: v for n, v in sections["encoder"].items() if n != "name"}
        with torch.device("meta"):
            method = create_method(
                "tcgl", create_encoder(str(sections["encoder"]["name"]), **encoder), **options, **chosen
            )
        assert isinstance(method, TCGL)
        assert method.graph.head_graph == graph
        if graph == "order":  # the paper's: nothing but the graph, and dropout, differs from the class's defaults
            usual = {**defaults(TCGL), **{n: v for p in TCGL.parts.values() for n, v in defaults(p.builder).items()}}
            given = {**options, **{n: v for values in chosen.values() for n, v in values.items()}}
            assert {n for n, v in given.items() if usual[n] != v} <= {"head_graph", "dropout"}
            assert method.sampler.min_frames == 64  # type: ignore[attr-defined]
        else:
            assert method.sampler.min_frames == 30  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["vit_tiny", "resnet_18"])
def test_any_encoder_serves(name: str) -> None:
    method = create_method("tcgl", create_encoder(name), clip_frames=8, size=32, resize=None, hidden=16, gate_hidden=4)
    output = method(snippet_batch(2, size=32))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert method.gcn_inter[0].in_features == method.encoder.num_features


# --- the parts --------------------------------------------------------------------------------------------------


def test_check_3_classes_and_reversal() -> None:
    """The class of the order i → n − 1 − i is n! − 1 − class, which "up to reversal" uses."""
    for n in (2, 3, 4):
        orders = permutations(n).tolist()
        for number, order in enumerate(orders):
            assert orders[len(orders) - 1 - number] == [n - 1 - i for i in order]


def test_check_6_gate() -> None:
    gate = SnippetGate(3, 2, 1).double()
    with torch.no_grad():
        gate.squeeze.weight.copy_(torch.tensor([0.5, 0.2, 0.3, -0.1, 0.4, 0.1]).expand(3, 6))
        gate.squeeze.bias.fill_(0.05)
        gate.weight.copy_(torch.tensor([1.0, 2, 3]).view(3, 1, 1) * torch.tensor([[0.4], [-0.6]]))
        gate.bias.fill_(0.1)
    h = torch.tensor([[[1, 2], [-1, 0.5], [3, -2]]], dtype=torch.float64)
    assert gate.squeeze(h.flatten(1))[0].tolist() == pytest.approx([1.6] * 3)
    expected = [0.676996, 0.594679, -0.798991, 0.069717, 2.648643, -0.116829]
    assert gate(h).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_the_gate_has_weights_of_its_own_for_each_position() -> None:
    torch.manual_seed(0)
    gate, h = SnippetGate(3, 4, 5), torch.randn(2, 3, 4)
    z = h.flatten(1)
    for k in range(3):
        inner = (z @ gate.squeeze.weight[5 * k : 5 * k + 5].T + gate.squeeze.bias[5 * k : 5 * k + 5]).relu()
        torch.testing.assert_close(gate(h)[:, k], (inner @ gate.weight[k].T + gate.bias[k]).sigmoid() * h[:, k])
    assert float(gate.weight.detach().abs().max()) <= 5**-0.5


def test_dropout_of_the_head_is_for_training_and_keyed_by_sample() -> None:
    torch.manual_seed(0)
    head = OrderHead(3, 8, OrderSettings(gate_hidden=2))
    h, ids = torch.randn(6, 3, 8), torch.arange(6)
    one, two = head(h, Key(1), ids), head(h, Key(2), ids)
    assert not torch.equal(one, two)
    turned = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(head(h[turned], Key(1), ids[turned]), one[turned])
    head.eval()
    assert torch.equal(head(h, Key(1), ids), head(h, Key(2), ids))


# --- the encoder's passes ---------------------------------------------------------------------------------------


def test_frame_sets_lose_the_mean_over_their_own_frames() -> None:
    """docs/methods/tcgl.md, STKD: cut first, then centre; calls in the order of positions, then of frame-sets."""
    method, batch = tiny_tcgl(bn_grouping="joint"), snippet_batch(2)
    seen: list[Tensor] = []
    method.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    snippets, frame_sets = method.encode(batch)
    assert snippets.shape == (2, 1, 3, 12)
    assert frame_sets is not None
    assert frame_sets.shape == (2, 3, 4, 12)
    whole, cut = seen
    assert whole.shape == (6, 3, 8, 16, 16)
    assert cut.shape == (24, 3, 2, 16, 16)
    for p, b in itertools.product(range(3), range(2)):
        clip = batch.views[p].data[b : b + 1]
        torch.testing.assert_close(whole[2 * p + b], dct_highpass(clip, 1)[0])
        for j in range(4):
            part = dct_highpass(clip[:, :, 2 * j : 2 * j + 2], 1)[0]
            torch.testing.assert_close(cut[(4 * p + j) * 2 + b], part)
    assert float((cut[0] - whole[0][:, :2]).abs().max()) > 0.01  # not a slice of the centred snippet
    method.eval()
    snippets, frame_sets = method.encode(batch)
    assert frame_sets is not None
    prepare = method.encoder.prepare
    clip = batch.views[2].data[1:]
    torch.testing.assert_close(snippets[1, 0, 2], method.encoder(prepare(clip))[0])
    torch.testing.assert_close(frame_sets[1, 2, 3], method.encoder(prepare(clip[:, :, 6:]))[0])


def test_batch_norms_see_each_call_by_itself() -> None:
    """15 calls, snippet p and then its frame-sets, each with statistics of its own; running statistics too."""
    batch = snippet_batch(3, dtype=torch.float64)
    method, twin, joint = (tiny_tcgl(**options).double() for options in ({}, {}, {"bn_grouping": "joint"}))
    snippets, frame_sets = method.encode(batch)
    assert frame_sets is not None
    for p, view in enumerate(batch.views):
        prepare = twin.encoder.prepare
        torch.testing.assert_close(snippets[:, 0, p], twin.encoder(prepare(view.data)))
        for j in range(4):
            one = twin.encoder(prepare(view.data[:, :, 2 * j : 2 * j + 2]))
            torch.testing.assert_close(frame_sets[:, p, j], one)
    for (name, a), b in zip(method.encoder.named_buffers(), twin.encoder.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    assert not torch.allclose(joint.encode(batch)[0], snippets, atol=1e-3)


@pytest.mark.parametrize("grouping", ["per_call", "joint"])
def test_statistics_of_the_snippets_alone(grouping: str) -> None:
    """Frame-sets are normalised as ever in training, and leave nothing in what evaluation uses."""
    batch = snippet_batch(3, dtype=torch.float64)
    both, own, without = (
        tiny_tcgl(bn_grouping=grouping, **options).double()
        for options in ({}, {"bn_statistics": "snippets"}, {"w_intra": 0})
    )
    expected, found = both.encode(batch), own.encode(batch)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b)
    without.encode(batch)
    for (name, a), b in zip(own.encoder.named_buffers(), without.encoder.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    assert any(not torch.allclose(a, b) for a, b in zip(both.encoder.buffers(), own.encoder.buffers(), strict=True))


def test_one_frame_set_and_no_intra_loss_leave_the_passes_out() -> None:
    for options in ({"num_frame_sets": 1}, {"w_intra": 0}):
        method = tiny_tcgl(**options)
        snippets, frame_sets = method.encode(snippet_batch(2))
        assert frame_sets is None
        assert "intra_loss" not in method(snippet_batch(2)).logs
        twin = tiny_tcgl()
        torch.testing.assert_close(twin.encode(snippet_batch(2))[0], snippets)


# --- the losses -------------------------------------------------------------------------------------------------


def slow_losses(method: TCGL, batch: Batch, *, head_graph: str) -> dict[str, float]:
    """L_intra, L_inter, L_order of uncorrupted views, graph by graph, in the words of docs/methods/tcgl.md."""
    snippets, frame_sets = method.encode(batch)
    assert frame_sets is not None
    assert method.order_head is not None

    def project(h: Tensor) -> Tensor:
        return method.projector(h)  # type: ignore[no-any-return]

    intra, inter, order = [], [], []
    for b in range(len(batch)):
        for p in range(3):
            z = project(method.gcn_intra[p](frame_sets[b, p], normalized_adjacency(chain(4))))
            intra.append(node_info_nce(z, z))
        graph = order_graph(batch.targets["order"][b])
        z = project(method.gcn_inter[0](snippets[b, 0], normalized_adjacency(graph)))
        inter.append(node_info_nce(z, z))
        head = {"order": graph, "position_chain": chain(3)}[head_graph]
        h = method.gcn_inter[0](snippets[b, 0], normalized_adjacency(head))
        logits = method.order_head(h[None], batch.key, batch.sample_id[:1])
        order.append(-logits.log_softmax(1)[0, batch.targets["order_class"][b]])
    parts = zip(("intra_loss", "inter_loss", "order_loss"), (intra, inter, order), strict=True)
    return {name: float(torch.stack(values).detach().mean()) for name, values in parts}


@pytest.mark.parametrize("head_graph", ["order", "position_chain"])
def test_check_18_the_batch_equals_a_loop_over_graphs_with_orders_mixed(head_graph: str) -> None:
    method, batch = tiny_tcgl(head_graph=head_graph, p_edge=0, p_feat=0).eval(), snippet_batch(6)
    assert len(set(batch.targets["order_class"].tolist())) > 2
    output, expected = method(batch), slow_losses(method, batch, head_graph=head_graph)
    for name, value in expected.items():
        assert float(output.logs[name]) == pytest.approx(value, abs=1e-5), name
    assert float(output.loss.detach()) == pytest.approx(sum(expected.values()), abs=1e-5)
    weighted = tiny_tcgl(head_graph=head_graph, p_edge=0, p_feat=0, w_intra=0.5, w_inter=2, w_order=3).eval()
    total = 0.5 * expected["intra_loss"] + 2 * expected["inter_loss"] + 3 * expected["order_loss"]
    assert float(weighted(batch).loss.detach()) == pytest.approx(total, abs=1e-4)


def test_a_second_layer_is_for_the_head_alone() -> None:
    method, batch = tiny_tcgl(gcn_layers=2, head_graph="order", gcn_act="relu").eval(), snippet_batch(4)
    assert method.order_head is not None
    snippets, s = method.encode(batch)[0], normalized_adjacency(order_graph(batch.targets["order"]))
    h = method.gcn_second[0](method.gcn_inter[0](snippets[:, 0], s).relu(), s).relu()
    expected = method.order_head(h, batch.key, batch.sample_id)
    torch.testing.assert_close(method.order_logits(snippets, batch), expected)
    before = method(batch).logs
    with torch.no_grad():
        method.gcn_second[0].weight.zero_()
    after = method(batch).logs
    assert torch.equal(before["inter_loss"], after["inter_loss"])
    assert not torch.equal(before["order_loss"], after["order_loss"])


def test_accuracies() -> None:
    """Logits made by hand: classes 0 … 5 are given 5, 5, 2, 2, 4, 4."""
    method, batch = tiny_tcgl(), snippet_batch(6)
    orders = permutations(3)
    batch = replace(batch, targets={"order": orders, "order_class": torch.arange(6)})
    method.order_logits = lambda *_: nn.functional.one_hot(torch.tensor([5, 5, 2, 2, 4, 4]), 6).float()  # type: ignore[method-assign]
    logs = method(batch).logs
    assert float(logs["order_accuracy"]) == pytest.approx(2 / 6)  # 2, 4
    assert float(logs["order_accuracy_up_to_reversal"]) == pytest.approx(
        4 / 6
    )  # and 0, called 5 − 0, and 3, called 5 − 3


def views_of(method: TCGL, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """What the corruption made of intra and inter graphs: (nodes, adjacency) of every corrupted view."""
    found: list[tuple[Tensor, Tensor]] = []
    original = method.corrupted

    def spy(*arguments: Any) -> tuple[Tensor, Tensor]:
        found.append(original(*arguments))
        return found[-1]

    method.corrupted = spy  # type: ignore[method-assign]
    method(batch)
    return found


def test_check_10_corruption_in_the_method() -> None:
    batch = snippet_batch(5)
    method = tiny_tcgl(p_edge=0.5, p_feat=0.5)
    snippets, frame_sets = tiny_tcgl(p_edge=0.5, p_feat=0.5).encode(batch)
    assert frame_sets is not None
    (intra_x, intra_a), (inter_x, inter_a) = views_of(method, batch)
    for before, after in ((frame_sets, intra_x), (snippets, inter_x)):
        masked = (after == 0).all(2, keepdim=True)
        torch.testing.assert_close(after, before * ~masked)  # whole dimensions, not rescaled
        assert 0.3 < float(masked.float().mean()) < 0.7
    assert len({tuple(m.tolist()) for m in (intra_x[:, :, 0] == 0).flatten(0, 1)}) == 15  # fresh for each graph
    assert intra_a.shape == (1, 3, 4, 4)  # one mask per position, shared by the batch
    assert not torch.equal(intra_a[0, 0], intra_a[0, 1])
    orders = order_graph(batch.targets["order"])
    assert inter_a.shape == (5, 1, 3, 3)  # one per sample
    assert not (inter_a[:, 0] > orders).any()
    assert len({tuple(a.flatten().tolist()) for a in orders - inter_a[:, 0]}) > 2
    (_, own), _ = views_of(tiny_tcgl(p_edge=0.5, edge_mask_scope="sample"), batch)
    assert own.shape == (5, 3, 4, 4)
    assert not torch.equal(own[0], own[1])
    for a in (x for _, x in views_of(tiny_tcgl(p_edge=0.5, edge_drop="undirected"), batch)):
        assert torch.equal(a, a.mT)
    assert not torch.equal(intra_a, intra_a.mT)
    again = views_of(tiny_tcgl(p_edge=0.5, p_feat=0.5), replace(batch, key=Key("another step")))
    assert not torch.equal(again[0][1], intra_a)
    assert not torch.equal(again[1][0], inter_x)


def test_check_10_nothing_removed_makes_the_views_identical() -> None:
    """Then every positive is at its maximum: the loss is that of the clean graph with itself."""
    method, batch = tiny_tcgl(p_edge=0, p_feat=0).eval(), snippet_batch(4)
    expected = slow_losses(method, batch, head_graph="position_chain")
    for corrupt in ("second", "both"):
        logs = tiny_tcgl(p_edge=0, p_feat=0, which=corrupt).eval()(batch).logs
        assert float(logs["intra_loss"]) == pytest.approx(expected["intra_loss"], abs=1e-5)
        assert float(logs["inter_loss"]) == pytest.approx(expected["inter_loss"], abs=1e-5)
    for options in ({}, {"kind": "edges"}, {"kind": "nodes"}, {"kind": "noise"}):
        other = tiny_tcgl(p_edge=0.6, p_feat=0.6, **options).eval()(batch).logs  # in evaluation too
        assert abs(float(other["intra_loss"]) - expected["intra_loss"]) > 1e-4


def test_corrupt_says_which_views_and_what() -> None:
    batch = snippet_batch(4)
    assert len(views_of(tiny_tcgl(), batch)) == 2
    second, first, *_ = both = views_of(tiny_tcgl(which="both", p_feat=0.5), batch)
    assert len(both) == 4
    assert not torch.equal(second[0], first[0])  # draws of its own
    clean = tiny_tcgl().encode(batch)[0]
    edges_x, edges_a = views_of(tiny_tcgl(kind="edges", p_edge=0.5), batch)[1]
    torch.testing.assert_close(edges_x, clean)
    nodes_x, nodes_a = views_of(tiny_tcgl(kind="nodes", p_feat=0.5), batch)[1]
    assert torch.equal(nodes_a, order_graph(batch.targets["order"]).unsqueeze(1))
    assert not torch.equal(edges_a, nodes_a)
    assert (nodes_x == 0).any()
    many = snippet_batch(32, frames=4)
    small = {"num_frame_sets": 2, "clip_frames": 4, "noise_std": 0.5, "kind": "noise"}
    noise_x, noise_a = views_of(tiny_tcgl(**small), many)[1]
    assert torch.equal(noise_a, order_graph(many.targets["order"]).unsqueeze(1))
    noise = noise_x - tiny_tcgl(**small).encode(many)[0]  # P6: it is added
    assert float(noise.detach().std()) == pytest.approx(0.5, rel=0.1)
    assert abs(float(noise.detach().mean())) < 0.06
    assert float((noise.abs() > 1.0).float().mean()) == pytest.approx(0.0455, abs=0.02)  # two deviations


@pytest.mark.parametrize("options", [{}, {"gnn": "gat", "kind": "noise", "gcn_layers": 2}])
def test_mixed_precision(options: dict[str, Any]) -> None:
    batch = snippet_batch(4)
    method = tiny_tcgl(**options).eval()
    whole = method(batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        output = method(batch)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert float(output.loss.detach()) == pytest.approx(float(whole.detach()), abs=0.1)


def test_random_edges_are_drawn_per_graph_from_the_key() -> None:
    method, batch = tiny_tcgl(), snippet_batch(6)
    nodes = torch.zeros(6, 3, 4, 2)
    one = method.edges("random", nodes, batch, Key(1))
    assert one.shape == (6, 3, 4, 4)
    assert torch.equal(one.sum((-1, -2)), torch.full((6, 3), 6.0))
    assert len({tuple(a.flatten().tolist()) for a in one.flatten(0, 1)}) > 4
    assert not torch.equal(one, method.edges("random", nodes, batch, Key(2)))
    turned = torch.tensor([3, 1, 5, 0, 2, 4])
    again = method.edges("random", nodes, rows_of_tuples(batch, turned), Key(1))
    assert torch.equal(again, one[turned])


def test_check_11_order_logits_do_not_see_the_corruption() -> None:
    batch = snippet_batch(4)
    logits = []
    for p in (0.0, 0.1, 0.5):
        method = tiny_tcgl(p_edge=p, p_feat=p, which="both", head_graph="order").eval()
        logits.append(method.order_logits(method.encode(batch)[0], batch))
        assert float(method(batch).logs["order_loss"]) == pytest.approx(
            float(nn.functional.cross_entropy(logits[-1], batch.targets["order_class"]).detach()), abs=1e-6
        )
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


def test_the_label_reaches_the_head_only_through_the_paper_s_graph() -> None:
    method, batch = tiny_tcgl().eval(), snippet_batch(6)
    snippets = method.encode(batch)[0]
    other = replace(batch, targets={"order": batch.targets["order"].flip(0), "order_class": torch.zeros(6)})
    for graph in ("position_chain", "full", "none"):
        method.graph = replace(method.graph, head_graph=graph)
        assert torch.equal(method.order_logits(snippets, batch), method.order_logits(snippets, other)), graph
    method.graph = replace(method.graph, head_graph="order")
    assert not torch.allclose(method.order_logits(snippets, batch), method.order_logits(snippets, other))


@pytest.mark.parametrize("alone", ["w_intra", "w_inter", "w_order"])
def test_check_12_each_loss_alone_reaches_the_trunk(alone: str) -> None:
    weights = {"w_intra": 0, "w_inter": 0, "w_order": 0} | {alone: 1}
    method = tiny_tcgl(**weights)
    output = method(snippet_batch(4))
    output.loss.backward()
    assert set(output.logs) & {"intra_loss", "inter_loss", "order_loss"} == {alone[2:] + "_loss"}
    trunk = [p.grad for p in method.encoder.parameters()]
    assert all(g is not None and g.abs().sum() > 0 for g in trunk)
    # The gate and the order classifier are not even there without their loss.
    assert any(n.startswith("order_head.") for n, _ in method.named_parameters()) == (alone == "w_order")


def test_check_13_loss_of_a_random_start() -> None:
    """Embeddings are then nearly equal between the nodes of a graph: log 7 + log 5 + log 6 = 5.35."""
    torch.manual_seed(0)
    method = create_method(
        "tcgl", create_encoder("r3d_tiny"), clip_frames=8, interval=2, size=16, resize=(16, 20)
    ).eval()
    with torch.no_grad():
        output = method(snippet_batch(8, seed=1))
    assert float(output.loss) == pytest.approx(5.35, abs=0.15)
    assert float(output.logs["intra_loss"]) == pytest.approx(np.log(7), abs=0.1)
    assert float(output.logs["inter_loss"]) == pytest.approx(np.log(5), abs=0.1)
    assert float(output.logs["order_loss"]) == pytest.approx(np.log(6), abs=0.1)


# --- the leak ---------------------------------------------------------------------------------------------------


def read_from_the_graph(head_graph: str, steps: int = 350, rows: int = 128) -> tuple[float, float]:
    """Accuracy of graph convolution and head on features without content, over the last 50 steps of training."""
    torch.manual_seed(0)
    encoder = create_encoder("r3d_tiny", **TINY_ENCODER)
    method = create_method(
        "tcgl", encoder, head_graph=head_graph, w_intra=0, w_inter=0, hidden=32, gate_hidden=16, dropout=0.0
    )  # type: ignore[arg-type]
    parameters = [p for n, p in method.named_parameters() if not n.startswith("encoder.")]
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    orders, generator = permutations(3), torch.Generator().manual_seed(1)
    ids, hits, pairs = torch.arange(rows), [], []
    for step in range(steps):
        truth = torch.randint(6, (rows,), generator=generator)
        x = torch.randn(rows, 1, 1, 12, generator=generator) + 0.1 * torch.randn(rows, 1, 3, 12, generator=generator)
        batch = Batch((), {"order": orders[truth], "order_class": truth}, ids, ids, ids, key=Key(step))
        logits = method.order_logits(x, batch)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, truth).backward()
        optimizer.step()
        found = logits.argmax(1)
        hits.append(float((found == truth).float().mean()))
        pairs.append(float(((found == truth) | (5 - found == truth)).float().mean()))
    return float(np.mean(hits[-50:])), float(np.mean(pairs[-50:]))


def test_check_15_leak() -> None:
    exact, pairs = read_from_the_graph("order")
    assert exact == pytest.approx(0.5, abs=0.04)
    assert pairs > 0.96
    exact, pairs = read_from_the_graph("position_chain", steps=150)
    assert exact == pytest.approx(1 / 6, abs=0.025)
    assert pairs == pytest.approx(1 / 3, abs=0.03)


# --- two processes ----------------------------------------------------------------------------------------------


def rows_of_tuples(batch: Batch, rows: Any) -> Batch:
    """Rows of a batch, with targets and key."""
    part = rows_of(batch, rows)
    return replace(part, targets={n: t[rows] for n, t in batch.targets.items()}, key=batch.key)


PROCESS_CASES: dict[str, dict[str, Any]] = {
    "paper": {"head_graph": "order", "dropout": 0.5},
    "all own draws": {"which": "both", "edge_mask_scope": "sample", "intra_edges": "random", "gnn": "gat"},
    "statistics of snippets": {"bn_statistics": "snippets", "gcn_layers": 2},
    "noise, joint": {"kind": "noise", "bn_grouping": "joint", "inter_edges": "random"},
}


def on_ranks(case: str) -> dict[str, Any]:
    """Loss, logs, gradients and buffers after one backward pass of DDP on this rank's half."""
    rank = distributed.rank()
    method = tiny_tcgl(**PROCESS_CASES[case]).double().train()
    module = distribute(method, torch.device("cpu"), synchronise_norm=True, unused=False)
    batch = snippet_batch(8, dtype=torch.float64)
    output = module(rows_of_tuples(batch, slice(4 * rank, 4 * rank + 4)))
    output.loss.backward()
    return {
        "loss": float(distributed.all_reduce_mean(output.loss.detach())),
        "logs": {n: float(distributed.all_reduce_mean(v)) for n, v in output.logs.items()},
        "gradients": {n: p.grad.numpy() for n, p in method.named_parameters() if p.grad is not None},
        "buffers": {n: b.numpy() for n, b in method.named_buffers()},
    }


@pytest.mark.ddp
@pytest.mark.parametrize("case", PROCESS_CASES)
def test_two_processes_give_loss_gradients_and_buffers_of_one(ddp: Any, case: str) -> None:
    method = tiny_tcgl(**PROCESS_CASES[case]).double().train()
    output = method(snippet_batch(8, dtype=torch.float64))
    output.loss.backward()
    gradients = {n: p.grad for n, p in method.named_parameters()}
    for rank in ddp.run(on_ranks, case):
        assert rank["loss"] == pytest.approx(float(output.loss.detach()), abs=1e-9)
        assert rank["logs"] == pytest.approx({n: float(v) for n, v in output.logs.items()}, abs=1e-6)
        assert rank["gradients"].keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert gradient is not None
            torch.testing.assert_close(torch.as_tensor(rank["gradients"][name]), gradient, atol=1e-9, rtol=1e-6)
        for name, buffer in method.named_buffers():
            torch.testing.assert_close(torch.as_tensor(rank["buffers"][name]), buffer, atol=1e-9, rtol=1e-9)


# --- learning ---------------------------------------------------------------------------------------------------


def moving_square(number: int, speeds: tuple[float, ...], *, third: int = 10, size: int = 24, side: int = 7) -> Tensor:
    """A square that crosses a plain ground, at another speed in each third, from another place: (T, H, W, 3) uint8."""
    generator = Key("square", number).numpy()
    frames = np.full((len(speeds) * third, size, size, 3), 60, dtype=np.uint8)
    colour, axis = generator.integers(140, 255, 3), np.arange(size)
    for k, speed in enumerate(speeds):
        start, angle = generator.uniform(0, size, 2), generator.uniform(0, 2 * np.pi)
        for t in range(third):
            y, x = ((start + speed * t * np.array([np.sin(angle), np.cos(angle)])) % size).astype(int)
            frames[k * third + t][((axis - y) % size < side)[:, None] & ((axis - x) % size < side)[None]] = colour
    return torch.from_numpy(frames)


def learn_order(speeds: tuple[float, ...], steps: int) -> dict[str, float]:
    """Accuracies on new videos after training with the order loss alone and a graph that knows nothing of it."""
    torch.manual_seed(0)
    encoder = create_encoder("r3d_tiny", channels=(12, 24, 32, 48), stem_channels=8)
    method = create_method(
        "tcgl", encoder, clip_frames=8, interval=3, size=20,
        resize=(24, 24), hidden=32, gate_hidden=16, dropout=0.1, w_intra=0, w_inter=0,
    )  # fmt: skip
    optimizer = build_optimizer(method, name="adamw", lr=0.004, weight_decay=0.01)
    videos = [moving_square(i, speeds) for i in range(160)]
    fit(method, loader(method, videos, rows=16), optimizer, total_steps=steps, device="cpu")
    unseen = [moving_square(1000 + i, speeds) for i in range(96)]
    method.eval()
    with torch.no_grad():
        logs = method(method.views.apply(next(loader(method, unseen, rows=96)))).logs
    return {name: float(value) for name, value in logs.items()}


@pytest.mark.slow
def test_check_20_order_is_learnt_from_motion_and_direction_only_where_there_is_one() -> None:
    faster = learn_order((0.25, 1.25, 3.0), 75)
    assert faster["order_accuracy"] > 0.75  # chance 1/6
    # The first and the last third have one distribution: nothing tells an order from its reversal.
    symmetric = learn_order((0.25, 3.0, 0.25), 45)
    assert symmetric["order_accuracy_up_to_reversal"] > 0.9
    assert 0.3 < symmetric["order_accuracy"] < 0.68  # 1/2, and three deviations for 96 videos
