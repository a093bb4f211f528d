"""The transfer sets of docs/methods/evaluation.md as data: layouts take their options, sizes are the paper's."""

import inspect

import pytest

from unreel.core.errors import UsageError
from unreel.core.settings import validate
from unreel.data.layouts import LAYOUTS
from unreel.data.manifest import Manifest, Row
from unreel.tasks import TRANSFER_SETS, transfer_set
from unreel.tasks.transfer import size_notes


@pytest.mark.parametrize("name", TRANSFER_SETS)
def test_each_layout_takes_its_options(name: str) -> None:
    wanted = TRANSFER_SETS[name]
    layout = LAYOUTS[wanted.layout]
    assert validate(layout, wanted.options, "layout") == dict(wanted.options)
    assert not wanted.writes_files or "files" in inspect.signature(layout).parameters
    assert wanted.options.get("seed", 42) == 42


def test_sizes_are_the_papers() -> None:
    def sizes(name):
        return tuple(TRANSFER_SETS[name].sizes)

    assert sizes("cub") == (4_994, 1_000, 5_794)
    assert sizes("flowers") == (1_020, 1_020, 6_149)
    assert sizes("food") == (68_175, 7_575, 25_250)
    assert sizes("pets") == (2_940, 740, 3_669)
    assert TRANSFER_SETS["coco_objects"].sizes.val == 10_000
    assert sum(sizes("imagenet9")[:2]) == 9 * 5_045
    assert round(0.05 * 45_405) == sizes("imagenet9")[1]


def test_incomplete_data_is_said() -> None:
    splits = ["train"] * 2_940 + ["val"] * 740 + ["test"] * 3_669
    whole = Manifest("/", tuple(Row(f"{i}.jpg", split=s) for i, s in enumerate(splits)))
    assert size_notes("pets", whole) == ()
    assert size_notes("pets", whole.subset(range(1, len(whole)))) == (
        "pets is not complete: train 2939 instead of 2940",
    )
    with pytest.raises(UsageError, match="food"):
        transfer_set("foods", "/nowhere")


def test_the_command_writes_the_manifest() -> None:
    assert TRANSFER_SETS["coco_objects"].command("coco", "coco.csv", files="crops") == (
        "unreel data prepare coco coco --out coco.csv --layout.objects true --layout.splits linear --layout.seed 42 "
        "--layout.files crops"
    )
