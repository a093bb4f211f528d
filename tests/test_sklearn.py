"""VideoEmbedder keeps scikit-learn's contract as far as paths, not numbers, go in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

import unreel
from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest
from unreel.nn import create_encoder
from unreel.sklearn import VideoEmbedder


@pytest.fixture(scope="module")
def encoder() -> Any:
    return create_encoder("r3d_tiny", seed=1).eval()


@pytest.fixture(scope="module")
def paths(tiny_world: Path) -> list[str]:
    manifest = Manifest.open(tiny_world)
    return [str(manifest.absolute(i)) for i in range(8)]


def embedder(encoder: Any, **options: Any) -> VideoEmbedder:
    return VideoEmbedder(encoder, workers=0, **options)


def test_rows_are_what_embed_gives_in_the_order_asked_for_and_as_often(encoder: Any, paths: list[str]) -> None:
    usual = unreel.embed(encoder, paths, workers=0, progress=False).vectors
    order = [3, 0, 3, 7]
    found = embedder(encoder).fit(paths).transform([paths[i] for i in order])
    np.testing.assert_allclose(found, usual[order], rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32
    column = np.array([paths[i] for i in order], dtype=object)[:, None]
    np.testing.assert_array_equal(embedder(encoder).fit_transform(column), found)


def test_an_unreadable_file_stops_or_is_a_row_of_nan(encoder: Any, paths: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(DataError, match=r"1 file cannot be read: .*broken\.mp4.*unreadable='nan'"):
        embedder(encoder).fit_transform([paths[0], str(broken)])
    found = embedder(encoder, unreadable="nan").fit_transform([str(broken), paths[0]])
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_it_stands_in_a_pipeline_with_cross_validation(encoder: Any, paths: list[str], tmp_path: Path) -> None:
    model = make_pipeline(embedder(encoder, store=tmp_path), LogisticRegression())
    scores = cross_val_score(model, paths, ["a", "b"] * 4, cv=2)
    assert scores.shape == (2,)
    names = embedder(encoder).fit(paths).get_feature_names_out()
    assert (len(names), names[0]) == (encoder.num_features, "embedding0")


def test_what_are_no_paths_is_named(encoder: Any) -> None:
    for wrong, said in (([[1.0, 2.0]], "number 0"), ("a.mp4", "a list of paths, got one"), ([], "got none")):
        with pytest.raises(UsageError, match=said):
            embedder(encoder).fit(wrong)
    with pytest.raises(UsageError, match="VideoEmbedder needs an encoder"):
        VideoEmbedder().fit(["a.mp4"])
    with pytest.raises(NotFittedError):
        embedder(encoder).transform(["a.mp4"])


# What scikit-learn asks of every estimator, whatever goes into it; its other checks feed numbers.
CHECKS = (
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
)


@pytest.mark.parametrize("check", CHECKS)
def test_scikit_learn_s_own_checks_pass_where_they_apply(check: str) -> None:
    getattr(estimator_checks, check)("VideoEmbedder", VideoEmbedder("runs/first"))


def test_a_clone_keeps_the_encoder_s_weights(encoder: Any, paths: list[str]) -> None:
    copied = clone(embedder(encoder, batch_size=3))
    assert copied.get_params()["batch_size"] == 3
    np.testing.assert_array_equal(copied.fit(paths).transform(paths), embedder(encoder).fit(paths).transform(paths))
