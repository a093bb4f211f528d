"""Pooling a feature map: a slow loop as oracle, the store's key, encoders of every kind."""

import numpy as np
import pytest
import torch

from unreel.core.errors import UsageError
from unreel.data.manifest import Manifest
from unreel.data.sampling import ClipPlan
from unreel.media.write import write_video
from unreel.nn import InputSpec, create_encoder, wrap_encoder
from unreel.nn.encoder import Encoder, StageInfo
from unreel.protocols import ArrayClips, FeatureStore, Pooling, embed, search
from unreel.protocols.clips import JoinedClips, ManifestClips
from unreel.protocols.features import embed_all
from unreel.protocols.store import TableKey

PLAN = ClipPlan(num_frames=4, stride=1, num_clips=3, num_crops=1, size_px=32, short_side_px=32)


class Identity(Encoder):
    """Its map is its input."""

    def __init__(self, own_pool=False):
        super().__init__()
        self.input_spec, self.num_features = InputSpec(4, 1, 8), 3
        self.stage_info = {"out": StageInfo(3, 1, 1)}
        self.own_pool = own_pool

    def forward_features(self, x, names=None):
        return {"out": x}


class Largest(Identity):
    """An encoder with a pooling of its own."""

    def pool(self, feature_map):
        return feature_map.amax((2, 3, 4))


def clips(n=4, views=3, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (n, views, 4, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("window", [(1, 2, 2), (2, 5, 5), (3, 3, 1)])
def test_max_pooling_equals_a_loop(window):
    x = torch.randn(2, 3, 4, 7, 7, generator=torch.Generator().manual_seed(0))
    found = Pooling("max", window)(Identity(), x)
    slow = []
    for b in range(2):
        row = []
        for c in range(3):
            t, h, w = (size // step for size, step in zip((4, 7, 7), window, strict=True))
            for i in np.ndindex(t, h, w):
                cell = tuple(slice(a * s, (a + 1) * s) for a, s in zip(i, window, strict=True))
                row.append(x[(b, c, *cell)].max().item())
        slow.append(row)
    np.testing.assert_array_equal(found.numpy(), np.array(slow, np.float32))


@pytest.mark.parametrize(("name", "width"), [("max-1x2x2", 9216), ("max-2x5x5", 512), ("gap", 512), ("encoder", 512)])
def test_check_2_conv_features_of_a_paper_sized_map(name, width):
    """Of 512 × 2 × 7 × 7, 9,216 values at (1, 2, 2); 512 at (2, 5, 5), seeing the top left only."""
    x = torch.rand(1, 512, 2, 7, 7, generator=torch.Generator().manual_seed(0))
    found = Pooling.of(name)(Identity(), x)
    assert found.shape == (1, width)
    if name == "max-2x5x5":
        torch.testing.assert_close(found, x[..., :5, :5].amax((2, 3, 4)), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["c3d", "r3d_18", "r2plus1d_18"])
def test_check_2_conv_features_of_the_papers_encoders(name):
    """Without weights: 9,216 values at 16 × 112 × 112; 512 of R(2+1)D with (2, 5, 5)."""
    with torch.device("meta"):
        encoder = create_encoder(name)
        feature_map = encoder.forward_features(torch.empty(1, 3, 16, 112, 112))[encoder.last_stage]
        assert feature_map.shape == (1, 512, 2, 7, 7)
        assert Pooling.of("max-1x2x2")(encoder, feature_map).shape == (1, 9216)
        assert Pooling.of("max-2x5x5")(encoder, feature_map).shape == (1, 512)


def test_names_and_what_is_refused():
    for name in ("encoder", "gap", "max-1x2x2"):
        assert Pooling.of(name).name == name
        assert Pooling.of(Pooling.of(name)) == Pooling.of(name)
    assert Pooling.of(None) == Pooling()
    for wrong in ("mean", "max", "max-1x2", "max-0x2x2", "MAX-1x2x2"):
        with pytest.raises(UsageError, match="pooling"):
            Pooling.of(wrong)
    for arguments in ({"kind": "max"}, {"window": (1, 2, 2)}, {"kind": "max", "window": (1, 2)}):
        with pytest.raises(UsageError, match="window"):
            Pooling(**arguments)


def test_a_map_too_small_is_refused_with_its_size():
    with pytest.raises(UsageError, match=r"'max-2x5x5' does not fit: the map of stage 'out' is 3 × 4 × 4 × 4 .*gap"):
        embed(Identity(), ArrayClips(clips(size=4)), pooling="max-2x5x5", progress=False)


def test_each_pooling_has_files_of_its_own():
    poolings = [Pooling(), Pooling("gap"), Pooling.of("max-1x2x2"), Pooling.of("max-2x5x5")]
    poolings += [Pooling("max", (1, 2, 2), keep_views=True), Pooling(keep_views=False)]
    assert poolings[0].key == ""
    assert "mean over views" in poolings[2].key
    assert len({TableKey("e", "c", "res5", pooling=p.key).digest for p in poolings}) == len(poolings)


def test_rows_hold_the_mean_over_views_unless_they_are_asked_to_keep_them(tmp_path):
    data = ArrayClips(clips())
    each = embed(Identity(), data, pooling=Pooling("max", (2, 4, 4), keep_views=True), progress=False)
    mean = embed(Identity(), data, pooling="max-2x4x4", store=tmp_path, progress=False)
    assert each.per_view.shape == (4, 3, 3 * 2 * 2 * 2)
    assert mean.per_view.shape == (4, 1, 3 * 2 * 2 * 2)
    assert mean.pooling == "max-2x4x4, mean over views"
    np.testing.assert_allclose(mean.vectors, each.vectors, atol=1e-6)
    again = embed(Identity(), data, pooling="max-2x4x4", store=tmp_path, progress=False)
    np.testing.assert_array_equal(again.per_view, mean.per_view)
    with FeatureStore(tmp_path).open(TableKey(**_about(tmp_path))) as table:
        assert next(iter(table.get([str(mean.sources[0])]).values())).shape == (1, 24)
    # Slow: the views one by one.
    net, pool = Identity(), Pooling.of("max-2x4x4")
    maps = [net.forward_features(net.prepare(torch.from_numpy(v)), ["out"])["out"] for v in clips()]
    slow = np.stack([pool(net, m).numpy().mean(0) for m in maps])
    np.testing.assert_allclose(mean.vectors, slow, atol=1e-6)


def _about(root):
    import sqlite3

    (path,) = root.glob("*.sqlite")
    with sqlite3.connect(path) as connection:
        return dict(connection.execute("SELECT key, value FROM about"))


def test_a_still_image_repeats_one_vector_and_its_mean_is_that_vector():
    still = np.repeat(clips(2, 1), 3, axis=1)
    found = embed(Identity(), ArrayClips(still), pooling="max-1x2x2", progress=False)
    one = embed(Identity(), ArrayClips(still[:, 0]), pooling="max-1x2x2", progress=False)
    np.testing.assert_array_equal(found.vectors, one.vectors)


def test_gap_shares_stored_features_only_with_an_encoder_that_means(tmp_path):
    data = ArrayClips(clips())
    for encoder, same in ((Identity(), True), (Largest(), False)):
        own, gap = (embed(encoder, data, pooling=p, store=tmp_path, progress=False) for p in (None, "gap"))
        assert np.allclose(own.vectors, gap.vectors) == same
        assert (own.pooling == gap.pooling) == same
        slow = torch.from_numpy(clips()).float().mean((2, 3, 4)).mean(1) / 255
        np.testing.assert_allclose(gap.vectors, slow, atol=1e-6)


@pytest.mark.parametrize("name", ["r3d_tiny", "resnet_18", "vit_tiny", "wrapped"])
def test_any_encoder_and_stage(name):
    """3-D, 2-D, transformer and foreign encoders, at the last stage and at one before it."""
    if name == "wrapped":
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=4), torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 1))
        encoder = wrap_encoder(net, input_spec=InputSpec(4, 1, 32), layers=["0", "2"], pool="mean")
    else:
        encoder = create_encoder(name, seed=0)
    x = torch.from_numpy(clips(1, 1, size=64)[:, 0])
    for stage in list(encoder.stage_info)[-2:]:
        with torch.no_grad():
            shape = encoder.eval().forward_features(encoder.prepare(x), [stage])[stage].shape
        found = embed(encoder, ArrayClips(x), layer=stage, pooling="max-1x2x2", progress=False)
        assert found.vectors.shape == (1, shape[1] * shape[2] * (shape[3] // 2) * (shape[4] // 2))


def test_each_encoder_may_be_pooled_in_its_own_way(tmp_path):
    data = ArrayClips(clips())
    own, pooled = embed_all([Identity(), Identity()], data, pooling=[None, "max-4x4x4"])
    assert own.vectors.shape == (4, 3)
    assert pooled.vectors.shape == (4, 12)
    with pytest.raises(UsageError, match="one for each of 2 encoders, got 1"):
        embed_all([Identity(), Identity()], data, pooling=[None])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    roots = []
    for number in range(2):
        root = tmp_path_factory.mktemp(f"set{number}")
        for i in range(2):
            frames = np.random.default_rng(10 * number + i).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
            write_video(root / f"{i}.mp4", frames, fps=8)
        roots.append(root)
    return roots


def test_joined_clips_are_the_parts_one_after_the_other(folders, tmp_path):
    parts = [ManifestClips(Manifest.open(folder), PLAN) for folder in folders]
    joined = JoinedClips(parts, prefixes=("", "other:"))
    assert joined.ids == ["0.mp4", "1.mp4", "other:0.mp4", "other:1.mp4"]
    assert joined.labels is None
    assert [joined.source(i) for i in range(4)] == [part.source(i) for part in parts for i in range(2)]
    alone = [embed(Identity(), part, store=tmp_path, progress=False).vectors for part in parts]
    calls = []
    found = embed(Identity(), joined, store=tmp_path, progress=lambda *done: calls.append(done))
    assert calls == []  # what is stored of the parts serves the whole
    np.testing.assert_array_equal(found.vectors, np.concatenate(alone))
    assert found.paths[2] == str(folders[1] / "0.mp4")
    backwards = [view.float().mean().item() for view in joined.read([3, 0, 1, 2])]
    forwards = [view.float().mean().item() for view in joined.read([0, 1, 2, 3])]
    assert backwards == [forwards[i] for i in (3, 0, 1, 2)]
    with pytest.raises(UsageError, match="one clip plan"):
        JoinedClips([parts[0], ManifestClips(Manifest.open(folders[1]), ClipPlan(num_frames=2))])


def test_search_compares_what_was_pooled_alike(folders):
    query = folders[0] / "0.mp4"
    gallery = embed(Identity(), folders[1], clips=PLAN, pooling="max-1x2x2", progress=False)
    hits = search(Identity(), [query], gallery, clips=PLAN, pooling="max-1x2x2", progress=False)
    assert len(hits[0]) == 2
    with pytest.raises(UsageError, match="another pooling"):
        search(Identity(), [query], gallery, clips=PLAN, progress=False)
