from pathlib import Path

import pytest

from unreel.core.errors import UsageError
from unreel.recipes import list_recipes, load_recipe


def test_listing_and_loading() -> None:
    assert {"cvrl_k400", "cvrl_k600", "cvrl_small"} <= set(list_recipes())
    assert list_recipes("cvrl_k*") == ["cvrl_k400", "cvrl_k600"]
    recipe = load_recipe("cvrl_k600")
    assert recipe.title
    assert recipe.sections["method"]["name"] == "cvrl"


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_says_what_it_is_and_where_it_is_from(name: str) -> None:
    recipe = load_recipe(name)
    called = {
        **{"arrow": "Arrow of time", "demo": "CVRL", "pace": "Pace prediction", "prp": "PRP", "rotation": "3D-RotNet"},
        **{"shuffle": "Shuffle & Learn", "speednet": "SpeedNet", "supervised": "Supervised"},
    }
    start = name.split("_")[0]
    assert called.get(start, start.upper()).lower() in recipe.title.split(" (")[0].split(" for ")[0].lower()
    assert all(layer.origin == f"recipe {name}" for layer in recipe.layers)


def test_a_file_is_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("# Mine.\nmethod:\n  name: cvrl\n")
    assert load_recipe(file).title == "Mine."
    assert load_recipe(str(file)).layers[-1].origin == "recipe mine"
    (tmp_path / "config.yaml").write_text(file.read_text())
    assert load_recipe(tmp_path).name == "config"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cvrl_smal", "unknown recipe 'cvrl_smal'; did you mean 'cvrl_small'"),
        ("nowhere/r.yaml", "recipe nowhere/r.yaml: there is no such file"),
    ],
)
def test_unknown_recipes(name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(name)
    assert message in str(caught.value)
