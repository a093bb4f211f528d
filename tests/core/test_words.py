"""Counting in words."""

import pytest

from unreel.core.words import counted, plural


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        *((0, "video", "0 videos"), (1, "video", "1 video"), (2, "image", "2 images"), (1024, "clip", "1,024 clips")),
        *((1, "class", "1 class"), (3, "class", "3 classes"), (1.0, "epoch", "1 epoch"), (1.5, "epoch", "1.5 epochs")),
        *((2, "batch", "2 batches"), (2, "box", "2 boxes"), (2, "category", "2 categories"), (2, "key", "2 keys")),
    ],
)
def test_a_number_with_its_noun(number: float, noun: str, text: str) -> None:
    assert counted(number, noun) == text
    assert plural(noun) in counted(2, noun)
