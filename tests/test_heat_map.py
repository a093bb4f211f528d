"""The atlas' heat map: every number is there as text, colours mean what the bar says, text can be read on them."""

from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import colormaps

from tests.scripts import script

_script = script("heat_map")
heat_map, standalone_svg, text_colour = _script.heat_map, _script.standalone_svg, _script.text_colour

WORDS = {"name": "test map", "title": "Scores", "unit": "points"}


def _make(**options):
    nan = np.nan
    value = np.array([[0.5, 0.25], [0.9, nan], [0.125, 0.3]])
    change = np.array([[0.2, 0.01], [-0.31, nan], [nan, nan]])
    return heat_map(
        ["one", "two", "random-init"],
        ["motion\nchance 12.5", "order"],
        [value, value - 0.1, value + 0.05],
        [change, change - 0.05, change + 0.05],
        **{**WORDS, **options},
    )


def _cells(drawing):
    return list(drawing.figure.axes[0].patches)


def test_numbers_are_text_and_the_file_stands_alone():
    svg = standalone_svg(_make())
    root = ElementTree.fromstring(svg)
    words = " ".join("".join(node.itertext()) for node in root.iter() if node.tag.endswith("text"))
    for shown in ("50.0", "40 – 55", "+20 [+15, +25]", "90.0", "−31 [−36, −26]", "+1 [−4, +6]", "chance 12.5", "two"):
        assert shown in words
    assert "var(--" not in svg
    assert float(root.get("width")) > 200
    assert svg == standalone_svg(_make())  # no date, no random ids


def test_less_than_half_a_point_has_no_sign():
    assert [_script._signed(v) for v in (0.004, -0.004, 0.0, 0.05, -0.05)] == ["0", "0", "0", "+5", "−5"]


def test_colour_is_the_difference_and_undecided_cells_are_hatched():
    drawing = _make()
    cells = _cells(drawing)
    assert len(cells) == 5  # the empty one is not drawn
    up, undecided, down, *controls = cells
    assert undecided.get_hatch()
    assert undecided.get_facecolor()[:3] == (1, 1, 1)
    assert not up.get_hatch()
    red, _, blue, _ = up.get_facecolor()
    assert blue > red
    red, _, blue, _ = down.get_facecolor()
    assert red > blue
    for cell in controls:
        assert cell.get_facecolor()[:3] == (1, 1, 1)
        assert not cell.get_hatch()
    assert drawing.figure.axes[1].get_ylim() == pytest.approx((-40, 40))  # the next ten above 31
    assert _make(limit=0.6).figure.axes[1].get_ylim() == pytest.approx((-60, 60))


def test_a_difference_whose_interval_touches_zero_from_either_side_is_undecided():
    one = np.ones((1, 2))
    cells = _cells(
        heat_map(["a"], ["b", "c"], [one / 2, one / 3, one], [[[0.1, -0.1]], [[0.0, -0.2]], [[0.2, 0.0]]], **WORDS)
    )
    assert all(cell.get_hatch() for cell in cells)


def test_text_has_contrast_on_every_colour():
    for x in np.linspace(0, 1, 101):
        fill = colormaps["RdBu"](x)
        ink = text_colour(fill)
        levels = sorted(
            (_script._luminance(fill), _script._luminance([int(ink[i : i + 2], 16) / 255 for i in (1, 3, 5)]))
        )
        assert (levels[1] + 0.05) / (levels[0] + 0.05) > 4.0


def test_arrays_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="reshape"):
        heat_map(["a"], ["b"], [[[1]], [[1]]], [[[0]]] * 3, **WORDS)
