"""The feature store: what it returns, what it forgets, and two processes at once."""

import multiprocessing
import os

import numpy as np
import pytest
import torch

from unreel.core.errors import DataError, UsageError
from unreel.core.files import WriteError
from unreel.nn import create_encoder
from unreel.protocols import ArrayClips, embed
from unreel.protocols.store import FeatureStore, TableKey, encoder_digest

KEY = TableKey("e", "c", "res5")


def rows(start, stop, views=2, width=8):
    return {f"s{i}": np.full((views, width), i, np.float32) for i in range(start, stop)}


def test_what_goes_in_comes_out(tmp_path):
    values = {f"s{i}": np.random.default_rng(i).normal(size=(3, 5)).astype(np.float32) for i in range(2000)}
    with FeatureStore(tmp_path).open(KEY) as table:
        table.put(values)
    with FeatureStore(tmp_path).open(KEY) as table:
        assert len(table) == 2000
        asked = [f"s{i}" for i in range(1990, 2010)]
        found = table.get(asked)
        assert set(found) == set(asked[:10])
        for name, value in found.items():
            np.testing.assert_array_equal(value, values[name])


def test_a_row_is_written_once(tmp_path):
    with FeatureStore(tmp_path).open(KEY) as table:
        table.put({"a": np.zeros((1, 2), np.float32)})
        table.put({"a": np.ones((1, 2), np.float32)})
        assert table.get(["a"])["a"].tolist() == [[0, 0]]


def test_views_of_sources_may_differ_in_number(tmp_path):
    with FeatureStore(tmp_path).open(KEY) as table:
        table.put({"a": np.zeros((1, 2), np.float32), "b": np.zeros((30, 2), np.float32)})
        assert table.get(["a", "b"])["b"].shape == (30, 2)
        with pytest.raises(UsageError, match=r"\(views, D\)"):
            table.put({"c": np.zeros(2, np.float32)})


@pytest.mark.parametrize("field", ["encoder", "clips", "layer", "dtype", "pooling"])
def test_every_part_of_the_key_has_its_own_file(tmp_path, field):
    store = FeatureStore(tmp_path)
    other = TableKey(**{"encoder": "e", "clips": "c", "layer": "res5", "dtype": "float32"} | {field: "other"})
    with store.open(KEY) as table:
        table.put(rows(0, 1))
    with store.open(other) as table:
        assert len(table) == 0
    assert len(store.files()) == 2


def test_longest_unused_files_go_first_and_whole(tmp_path):
    store = FeatureStore(tmp_path, max_bytes=200_000)
    keys = [TableKey(name, "c", "l") for name in "abc"]
    for age, key in enumerate(keys):
        with store.open(key) as table:
            table.put(rows(0, 20, width=800))  # about 130 kB
            path = table.path
        if path.exists():
            os.utime(path, (1000 + age, 1000 + age))
    assert [p.stem for p in store.files()] == [keys[2].digest]
    assert sum(p.stat().st_size for p in store.files()) <= 200_000


def test_use_renews_a_file(tmp_path):
    store = FeatureStore(tmp_path)
    for age, name in enumerate("ab"):
        with store.open(TableKey(name, "c", "l")) as table:
            table.put(rows(0, 2))
        os.utime(table.path, (1000 + age, 1000 + age))
    with store.open(TableKey("a", "c", "l")):
        pass
    assert store.files()[0].stem == TableKey("b", "c", "l").digest


def test_files_in_use_are_not_evicted(tmp_path):
    store = FeatureStore(tmp_path, max_bytes=100_000)
    with store.open(TableKey("a", "c", "l")) as used:
        used.put(rows(0, 10, width=400))
        with store.open(TableKey("b", "c", "l")) as table:
            table.put(rows(0, 10, width=400))
            assert used.path.exists()
            assert used.get(["s3"])["s3"][0, 0] == 3
    assert store.evict() == [used.path]


def test_a_file_larger_than_the_budget_stops_growing(tmp_path):
    with FeatureStore(tmp_path, max_bytes=100_000).open(KEY) as table:
        table.put(rows(0, 10))
        table.put(rows(10, 20, width=20_000))
        assert table.full
        assert len(table) == 10


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / f"{KEY.digest}.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(DataError, match="delete it"):
        FeatureStore(tmp_path).open(KEY)


def write(root, name):
    with FeatureStore(root).open(KEY) as table:
        for i in range(60):
            table.put({f"s{i}": np.full((2, 8), i, np.float32), f"{name}{i}": np.zeros((1, 8), np.float32)})


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_write_at_once(tmp_path):
    # Forked, so that no second interpreter has to import torch; the children only touch NumPy and SQLite.
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(tmp_path, name)) for name in "xy"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(100)
    assert [w.exitcode for w in writers] == [0, 0]
    with FeatureStore(tmp_path).open(KEY) as table:
        assert len(table) == 180
        np.testing.assert_array_equal(table.get(["s59"])["s59"], np.full((2, 8), 59))


def test_encoder_digest_sees_weights_buffers_and_input():
    def make(**arguments):
        return create_encoder("r3d_tiny", seed=0, **arguments)

    base = encoder_digest(make())
    assert encoder_digest(make()) == base
    assert encoder_digest(make().train()) == base
    assert encoder_digest(create_encoder("r3d_tiny", seed=1)) != base
    changed = make()
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1e-3
    assert encoder_digest(changed) != base
    changed = make()
    next(b for b in changed.buffers() if b.is_floating_point()).add_(1e-3)
    assert encoder_digest(changed) != base
    changed = make()
    changed.input_spec = type(changed.input_spec)(mean=(0.5, 0.5, 0.5))
    assert encoder_digest(changed) != base
    assert encoder_digest(make().to(torch.bfloat16)) != base


def test_the_usual_place_is_the_run_else_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path / "cache"))
    run, file = tmp_path / "run", tmp_path / "encoder.safetensors"
    run.mkdir()
    assert FeatureStore.usual(run).root == FeatureStore.usual(file).root == tmp_path / "cache" / "features"
    (run / "config.yaml").touch()
    assert FeatureStore.usual(run).root == run / "features"
    monkeypatch.setattr("os.access", lambda path, mode: path != run)
    assert FeatureStore.usual(run).root == tmp_path / "cache" / "features"


def test_a_store_that_nobody_asked_for_fails_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path))
    (tmp_path / "features").touch()
    encoder, clips = create_encoder("r3d_tiny", seed=0), np.zeros((2, 4, 32, 32, 3), np.uint8)
    assert len(embed(encoder, ArrayClips(clips), store=FeatureStore.usual(tmp_path), progress=False)) == 2
    with pytest.raises(WriteError):
        embed(encoder, ArrayClips(clips), store=tmp_path / "features", progress=False)
