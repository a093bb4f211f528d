"""Embedding videos: equal to a plain loop, nothing changed in the encoder, faults reported, the store used."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest
from unreel.data.row import Row
from unreel.data.sampling import ClipPlan
from unreel.media.image import encode_image
from unreel.media.write import write_video
from unreel.nn import InputSpec, create_encoder
from unreel.protocols import ArrayClips, FeatureStore, ManifestClips, default_plan, embed, search
from unreel.protocols.compute import Compute
from unreel.protocols.features import embed_all, evaluation_mode
from unreel.protocols.retrieval import search_like

PLAN = ClipPlan(num_frames=4, stride=1, num_clips=2, num_crops=1, size_px=32, short_side_px=32)


@pytest.fixture(scope="module")
def encoder():
    net = create_encoder("r3d_tiny", seed=0)
    # Statistics that differ from those of any batch: training mode would show.
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.fill_(-0.1)
            module.running_var.fill_(0.5)
    return net


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for label in "ab":
        (root / label).mkdir()
        for i in range(3):
            frames = rng.integers(0, 255, (12, 4, 4, 3), dtype=np.uint8).repeat(10, 1).repeat(10, 2)
            write_video(root / label / f"{i}.mp4", frames, fps=10)
    return root


def clips(n=5, views=2, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (n, views, 4, 32, 32, 3), dtype=np.uint8)


def counting(monkeypatch):
    """How many clips pass through the encoder."""
    from unreel.protocols import features

    seen, forward = [], features._Job._forward

    def count(job, batch):
        seen.append(len(batch))
        return forward(job, batch)

    monkeypatch.setattr(features._Job, "_forward", count)
    return seen


@pytest.mark.parametrize("batch_size", [None, 1, 3, 100])
def test_equals_a_plain_loop(encoder, batch_size):
    data = clips()
    found = embed(encoder, ArrayClips(data), batch_size=batch_size, progress=False)
    encoder.eval()
    with torch.no_grad():
        slow = [[encoder(encoder.prepare(torch.from_numpy(v)[None]))[0] for v in views] for views in data]
    slow = np.stack([[v.numpy() for v in views] for views in slow])
    np.testing.assert_allclose(found.per_view, slow, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.vectors, slow.mean(1), rtol=1e-4, atol=1e-5)
    assert found.vectors.dtype == np.float32
    assert found.vectors.std(0).max() > 1e-3


def test_check_24_nothing_changes_in_the_encoder(encoder):
    """Frozen parameters and BN running statistics are unchanged, and so is each module's mode."""
    encoder.train()
    list(encoder.modules())[3].eval()
    modes = [m.training for m in encoder.modules()]
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    found = embed(encoder, ArrayClips(clips()), progress=False)
    assert [m.training for m in encoder.modules()] == modes
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    encoder.eval()
    np.testing.assert_array_equal(embed(encoder, ArrayClips(clips()), progress=False).vectors, found.vectors)


def test_modes_come_back_after_an_error(encoder):
    encoder.train()

    def fail():
        with evaluation_mode(encoder):
            assert not encoder.training
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert encoder.training
    encoder.eval()


def test_neighbours_in_a_batch_do_not_matter(encoder):
    data = clips(6)
    whole = embed(encoder, ArrayClips(data), progress=False).vectors
    part = embed(encoder, ArrayClips(data[4:]), progress=False).vectors
    np.testing.assert_allclose(part, whole[4:], rtol=1e-4, atol=1e-5)


def test_layers_and_precision(encoder):
    data = ArrayClips(clips(2))
    stage = next(iter(encoder.stage_info))
    early = embed(encoder, data, layer=stage, progress=False)
    assert early.vectors.shape == (2, encoder.stage_info[stage].channels)
    full, half = (embed(encoder, data, precision=p, progress=False).vectors for p in ("float32", "bfloat16"))
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(half, full, rtol=0.05, atol=0.05)
    with pytest.raises(UsageError, match="unknown stage"):
        embed(encoder, data, layer="res9")
    with pytest.raises(UsageError, match="precision"):
        embed(encoder, data, precision="float16")
    with pytest.raises(UsageError, match="batch_size"):
        embed(encoder, data, batch_size=0)


def test_a_folder_gives_labels_ids_and_the_plans_views(encoder, folder):
    found = embed(encoder, folder, clips=PLAN, progress=False)
    assert found.ids.tolist() == [f"{c}/{i}.mp4" for c in "ab" for i in range(3)]
    assert found.labels.tolist() == list("aaabbb")
    assert found.groups is None
    assert found.per_view.shape == (6, 2, encoder.num_features)
    assert found.num_asked == len(found) == 6
    assert found.faults == ()
    assert found.spans == (None,) * 6


def test_unreadable_files_are_reported_and_never_replaced(encoder, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "v")
    (tmp_path / "v" / "a" / "1.mp4").write_bytes(b"not a video" * 50)
    (tmp_path / "v" / "b" / "0.mp4").write_bytes(b"")
    found = embed(encoder, tmp_path / "v", clips=PLAN, progress=False)
    assert found.num_asked == 6
    assert found.ids.tolist() == ["a/0.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4"]
    assert found.rows.tolist() == [0, 2, 4, 5]
    assert [f.path for f in found.faults] == ["a/1.mp4", "b/0.mp4"]
    assert {f.substitute for f in found.faults} == {""}
    whole = embed(encoder, folder, clips=PLAN, progress=False)
    np.testing.assert_allclose(found.vectors, whole.vectors[[0, 2, 4, 5]], rtol=1e-4, atol=1e-5)


def test_missing_files_are_an_error_before_the_start(encoder, folder):
    manifest = Manifest.open(folder)
    gone = Manifest(manifest.root, (*manifest.rows, type(manifest[0])("a/9.mp4")))
    with pytest.raises(DataError, match=r"a/9\.mp4"):
        embed(encoder, gone, clips=PLAN)


def test_nothing_readable_is_an_error(encoder, tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"nothing")
    with pytest.raises(DataError, match="none of 1 sources"):
        embed(encoder, tmp_path, clips=PLAN, progress=False)


def test_a_diverged_encoder_is_named(encoder):
    broken = create_encoder("r3d_tiny", seed=0)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="diverged"):
        embed(broken, ArrayClips(clips(1)), progress=False)


def test_the_store_is_read_before_the_encoder_runs(encoder, folder, tmp_path, monkeypatch):
    seen = counting(monkeypatch)
    store = FeatureStore(tmp_path)
    some = Manifest.open(folder).subset([0, 3])
    embed(encoder, some, clips=PLAN, store=store, progress=False)
    assert sum(seen) == 4
    whole = embed(encoder, folder, clips=PLAN, store=store, progress=False)
    assert sum(seen) == 12  # two of six were known
    # Another manifest with another root: the same files, nothing to do.
    paths = [folder / "b" / "2.mp4", folder / "b" / "0.mp4"]
    again = embed(encoder, paths, clips=PLAN, store=str(tmp_path), progress=False)
    assert sum(seen) == 12
    np.testing.assert_array_equal(again.per_view, whole.per_view[[5, 3]])
    bare = embed(encoder, folder, clips=PLAN, progress=False)
    np.testing.assert_allclose(whole.vectors, bare.vectors, rtol=1e-4, atol=1e-5)


def test_what_changes_an_embedding_misses_the_store(encoder, folder, tmp_path, monkeypatch):
    seen = counting(monkeypatch)
    one = Manifest.open(folder).subset([0])

    def run(encoder=encoder, plan=PLAN, **options):
        seen.clear()
        embed(encoder, one, clips=plan, store=tmp_path, progress=False, **options)
        return sum(seen)

    assert run() == 2
    assert run() == 0
    assert run(plan=replace(PLAN, stride=2)) == 2
    assert run(encoder=create_encoder("r3d_tiny", seed=1)) == 2
    assert run(layer=next(iter(encoder.stage_info))) == 2
    assert run(precision="bfloat16") == 2
    span = Manifest(one.root, (type(one[0])(one[0].path, start_s=0.2, end_s=0.8),))
    embed(encoder, span, clips=PLAN, store=tmp_path, progress=False)
    assert sum(seen) == 4


def test_a_source_listed_twice_is_read_once(encoder, folder, monkeypatch):
    seen = counting(monkeypatch)
    twice = Manifest.open(folder).subset([0, 1, 0])
    found = embed(encoder, twice, clips=PLAN, progress=False)
    assert sum(seen) == 4
    np.testing.assert_array_equal(found.vectors[0], found.vectors[2])
    assert len(found) == 3


def test_several_encoders_decode_once(encoder, folder, monkeypatch):
    other = create_encoder("r3d_tiny", seed=1)
    source = ManifestClips(folder, PLAN)
    read, calls = source.read, []
    monkeypatch.setattr(source, "read", lambda rows, **options: calls.extend(rows) or read(rows, **options))
    together = embed_all([encoder, other], source, compute=Compute(batch_size=5, progress=False))
    assert calls == [0, 1, 2, 3, 4, 5]
    for net, found in zip((encoder, other), together, strict=True):
        alone = embed(net, folder, clips=PLAN, progress=False)
        np.testing.assert_allclose(found.vectors, alone.vectors, rtol=1e-4, atol=1e-5)


def test_workers_give_the_same(encoder, folder):
    one, two = (embed(encoder, folder, clips=PLAN, workers=w, progress=False) for w in (0, 2))
    np.testing.assert_array_equal(one.vectors, two.vectors)
    np.testing.assert_array_equal(one.ids, two.ids)


def test_progress_counts_every_source(encoder):
    calls = []
    embed(encoder, ArrayClips(clips(3)), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_default_plan_is_how_the_encoder_was_trained(encoder):
    plan, spec = default_plan(encoder.input_spec), encoder.input_spec
    assert (plan.num_frames, plan.stride, plan.size_px) == (spec.num_frames, spec.stride_frames, spec.size_px)


def test_an_encoder_of_single_frames_sees_frames_of_the_whole_video():
    plan = default_plan(InputSpec(num_frames=1))
    assert plan.indices(101)[:, 0].tolist() == [0, 33, 66, 100]
    assert plan.indices(1)[:, 0].tolist() == [0, 0, 0, 0]


def test_equal_clips_of_an_image_are_encoded_once(encoder, tmp_path, monkeypatch):
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (36, 40, 3), dtype=np.uint8)
        (tmp_path / f"{i}.png").write_bytes(encode_image(pixels))
    seen = counting(monkeypatch)
    found = embed(encoder, tmp_path, clips=PLAN, store=tmp_path / "store", progress=False)
    assert sum(seen) == 3
    assert found.per_view.shape[:2] == (3, PLAN.num_views)
    np.testing.assert_array_equal(found.per_view[:, 0], found.per_view[:, 1])
    assert found.vectors.std(0).max() > 0
    again = embed(encoder, tmp_path, clips=PLAN, store=tmp_path / "store", progress=False)
    assert sum(seen) == 3
    np.testing.assert_array_equal(again.per_view, found.per_view)


def test_select_keeps_columns_together(encoder):
    source = ArrayClips(clips(4), labels=list("abcd"), groups=list("ppqq"))
    found = embed(encoder, source, progress=False)
    part = found.select(np.array([False, True, False, True]))
    assert part.labels.tolist() == ["b", "d"]
    assert part.groups.tolist() == ["p", "q"]
    assert part.paths == ("", "")
    np.testing.assert_array_equal(part.vectors, found.vectors[[1, 3]])


def test_wrong_arrays_are_refused():
    with pytest.raises(UsageError, match="uint8"):
        ArrayClips(np.zeros((2, 4, 8, 8, 3)))
    with pytest.raises(UsageError, match="labels: expected 2"):
        ArrayClips(np.zeros((2, 4, 8, 8, 3), np.uint8), labels=["a"])


def test_search_finds_the_others_and_itself_only_when_asked(encoder, folder):
    query = folder / "a" / "0.mp4"
    hits = search(encoder, [query], folder, 3, clips=PLAN, progress=False)[0]
    assert len(hits) == 3
    assert str(query) not in {h.path for h in hits}
    assert [h.similarity for h in hits] == sorted((h.similarity for h in hits), reverse=True)
    gallery = embed(encoder, folder, clips=PLAN, progress=False)
    both = search(encoder, [query, folder / "b" / "1.mp4"], gallery, 99, clips=PLAN, include_same=True, progress=False)
    assert both[0][0].path == str(query)
    assert both[1][0].similarity == pytest.approx(1.0, abs=1e-5)
    assert [len(row) for row in both] == [6, 6]
    with pytest.raises(UsageError, match="clip plan"):
        search(encoder, [query], gallery, progress=False)
    with pytest.raises(UsageError, match="must be ≥ 1"):
        search(encoder, [query], gallery, 0)


def test_manifest_clips_carry_columns_and_spans(folder):
    rows = Manifest.open(folder).rows
    made = type(rows[0])
    manifest = Manifest(
        str(folder),
        (
            made("a/0.mp4", 0.0, 0.5, labels={"motion": "up"}, groups={"patient": "p"}),
            made("a/0.mp4", 0.5, None, labels={"motion": "down"}, groups={"patient": "p"}),
        ),
    )
    source = ManifestClips(manifest, PLAN, label="motion", group="patient")
    assert source.ids == ["a/0.mp4#0-0.5", "a/0.mp4#0.5-"]
    assert source.labels == ["up", "down"]
    assert source.groups == ["p", "p"]
    assert source.source(0) != source.source(1)
    assert source.location(0) == (str(folder / "a" / "0.mp4"), (0.0, 0.5))


def test_a_killed_command_over_windows_goes_on_where_it_was(encoder, folder, tmp_path, monkeypatch):
    """What was committed is not computed again, and what comes out is what one go gives, to the bit."""
    from unreel.protocols import features

    options = {"clips": PLAN, "progress": False, "workers": 0, "window": 0.6, "every": 0.3, "batch_size": 2}
    whole = embed(encoder, folder, **options)
    assert len(whole) == 6 * 3
    assert whole.ids[:3].tolist() == ["a/0.mp4#0-0.6", "a/0.mp4#0.3-0.9", "a/0.mp4#0.6-1.2"]
    assert whole.spans[1] == (0.3, 0.9)
    monkeypatch.setattr(features, "_ROWS_PER_COMMIT", 4)

    def kill(done, total):
        if done == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(encoder, folder, store=tmp_path, **{**options, "progress": kill})
    seen = counting(monkeypatch)
    again = embed(encoder, folder, store=tmp_path, **options)
    assert sum(seen) == (18 - 8) * PLAN.num_views
    np.testing.assert_array_equal(again.per_view, whole.per_view)
    with pytest.raises(UsageError, match="folder, a manifest"):
        embed(encoder, ArrayClips(clips()), window=1.0)


def test_a_search_over_windows_finds_different_places(encoder, folder):
    """No hit shares time with a better one or with the example, and none of what is left is better than a hit."""
    options = {"clips": PLAN, "progress": False, "workers": 0}
    example = f"{folder}/a/0.mp4#0-0.6"
    hits = search_like(encoder, [example], [], folder, 8, window=0.6, every=0.2, **options)
    table = embed(encoder, folder, window=0.6, every=0.2, **options)
    query = embed(encoder, Manifest(str(folder), (Row("a/0.mp4", 0.0, 0.6),)), **options).vectors[0]
    alike = table.vectors @ query / np.linalg.norm(table.vectors, axis=1) / np.linalg.norm(query)
    taken = [(str(folder / "a/0.mp4"), 0.0, 0.6)]
    expected = []
    for i in np.argsort(-alike):
        place = (table.paths[i], *table.spans[i])
        if all(place[0] != path or place[2] <= start or end <= place[1] for path, start, end in taken):
            taken.append(place)
            expected.append(place)
    assert [(hit.path, *hit.span) for hit in hits] == expected[:8]
    assert len({hit.path for hit in hits}) < 8
