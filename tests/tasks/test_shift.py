"""Shifted test sets of the nine super-classes: WordNet's files, descent, the joint task."""

import numpy as np
import pytest
from scipy.io import savemat

from tests.contracts.test_task import TaskContract
from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest, Row
from unreel.protocols import KNN
from unreel.tasks import ShiftTask
from unreel.tasks.classification import score_head
from unreel.tasks.shift import SUPER_CLASSES, read_hypernyms, super_class

DOG, BIRD, CARNIVORE = (SUPER_CLASSES[n] for n in ("dog", "bird", "carnivore"))
# An excerpt in WordNet's shape: dog is below canine below carnivore; a husky has two parents.
IS_A = [
    (CARNIVORE, "n02083346"),
    ("n02083346", DOG),
    (DOG, "n02110185"),
    ("n01317541", "n02110185"),
    ("n02083346", "n02114367"),
    (BIRD, "n01514668"),
    ("n01514668", "n01514859"),
]


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "wordnet.is_a.txt"
    path.write_text("".join(f"{a} {b}\n" for a, b in IS_A))
    return path


def test_descent_takes_dog_before_carnivore(listed) -> None:
    kinds = read_hypernyms(listed)
    assert super_class("n02110185", kinds) == "dog"
    assert super_class(DOG, kinds) == "dog"  # a root is of its own class
    assert super_class("n02114367", kinds) == "carnivore"
    assert super_class("n01514859", kinds) == "bird"
    assert super_class("n01317541", kinds) is None
    assert list(SUPER_CLASSES).index("dog") < list(SUPER_CLASSES).index("carnivore")
    assert SUPER_CLASSES == {  # docs/methods/evaluation.md, Distribution shift
        "dog": "n02084071",
        "bird": "n01503061",
        "vehicle": "n04576211",
        "reptile": "n01661091",
        "carnivore": "n02075296",
        "insect": "n02159955",
        "instrument": "n03800933",
        "primate": "n02469914",
        "fish": "n02512053",
    }
    assert super_class("n1", {"n1": ("n2",), "n2": ("n1",)}) is None  # a ring ends


def test_three_files_say_the_same(tmp_path, listed) -> None:
    expected = {child: set(parents) for child, parents in read_hypernyms(listed).items()}
    # WordNet's data.noun: "offset file n words(hex) word id … pointers … | gloss", the licence first.
    nodes = sorted({n for pair in IS_A for n in pair})
    lines = ["  1 This software and database is being provided to you | as is"]
    for node in nodes:
        up = [a for a, b in IS_A if b == node]
        symbols = ["@" if i == 0 else "@i" for i in range(len(up))]
        pointers = [f"{s} {a[1:]} n 0000" for s, a in zip(symbols, up, strict=True)] + ["+ 00000001 v 0101"]
        words = "0a " + " ".join(f"word{k} 0" for k in range(10))
        lines.append(f"{node[1:]} 05 n {words} {len(pointers):03d} {' '.join(pointers)} | gloss with @ 12345678 n 0000")
    database = tmp_path / "dict"
    database.mkdir()
    (database / "data.noun").write_text("\n".join(lines) + "\n")
    assert {c: set(p) for c, p in read_hypernyms(database).items()} == expected
    # The development kit's table: numbers of children, padded.
    number = {node: i + 1 for i, node in enumerate(nodes)}
    table = np.zeros(
        len(nodes), dtype=[("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("num_children", "i4"), ("children", "O")]
    )
    for i, node in enumerate(nodes):
        down = [number[b] for a, b in IS_A if a == node]
        table[i] = (i + 1, node, len(down), np.array(down + [0] * 2, dtype="i4"))
    savemat(tmp_path / "meta.mat", {"synsets": table})
    assert {c: set(p) for c, p in read_hypernyms(tmp_path / "meta.mat").items()} == expected


def test_what_is_no_hierarchy_is_refused(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("n02084071 n02110185\nn02084071\n")
    with pytest.raises(DataError, match=r"a\.txt:2"):
        read_hypernyms(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("once upon a time\n")
    with pytest.raises(DataError, match=r"b\.txt:1"):
        read_hypernyms(tmp_path / "b.txt")
    (tmp_path / "meta.mat").write_bytes(b"nothing")
    with pytest.raises(DataError, match="table of classes"):
        read_hypernyms(tmp_path / "meta.mat")
    with pytest.raises(DataError, match="cannot be read"):
        read_hypernyms(tmp_path / "absent.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data\.noun"):
        read_hypernyms(tmp_path / "empty")


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    base = tmp_path_factory.mktemp("shift")
    for i in range(20):
        for name in (f"in9/train{i:02d}.png", f"in9/mixed{i:02d}.png", f"in9/test{i:02d}.png", f"c/x{i:02d}.png"):
            (base / name).parent.mkdir(exist_ok=True)
            (base / name).touch()
    return base


def base_rows():
    found = []
    for i in range(20):
        labels = {"label": ("dog", "bird")[i % 2]}
        for name, split, variant in (
            ("train", "train", "original"),
            ("test", "test", "original"),
            ("mixed", "test", "mixed_rand"),
        ):
            group = f"{split}{i}"
            row = Row(f"{name}{i:02d}.png", split=split, labels={**labels, "variant": variant}, groups={"group": group})
            found.append(row)
    return found


def shifted_rows():
    wnids = ("n02110185", "n01514859", "n09999999", DOG)
    return [
        Row(
            f"x{i:02d}.png",
            split="test",
            labels={"label": wnids[i % 4], "corruption": ("fog", "snow")[i % 5 == 0], "severity": "1", "name": "w"},
            groups={"group": f"train{i}"},  # by chance the name of a group of the other set
        )
        for i in range(20)
    ]


class TestShift(TaskContract):
    @pytest.fixture(autouse=True)
    def _places(self, roots, listed):
        self.roots, self.listed = roots, listed

    def make(self, order=None):
        base, other = base_rows(), shifted_rows()
        if order is not None:
            rng = np.random.default_rng(len(order))
            base = [base[i] for i in rng.permutation(len(base))]
            other = [other[i] for i in rng.permutation(len(other))]
        return ShiftTask(
            Manifest(str(self.roots / "in9"), tuple(base)),
            shifted=Manifest(str(self.roots / "c"), tuple(other)),
            hypernyms=self.listed,
        )

    def test_parts_are_the_original_head_and_the_nine_classes(self):
        task = self.make()
        parts = task.parts(self.embeddings(task))
        assert len(parts.train) == 20
        assert all("in9/train" in i for i in parts.train.ids)
        shifted = {i: label for i, label in zip(parts.test.ids, parts.test.labels, strict=True) if i.startswith("c/")}
        assert len(shifted) == 15
        assert shifted["c/x00.png"] == shifted["c/x03.png"] == "dog"
        assert shifted["c/x01.png"] == "bird"
        assert not any("mixed" in i for i in parts.test.ids)
        assert any("5 sources of classes outside the nine" in note for note in task.notes)
        assert any("dog 10, bird 5" in note for note in task.notes)

    def test_scores_by_set_and_by_corruption(self):
        task = self.make()
        parts = task.parts(self.embeddings(task))
        outcomes = score_head(KNN(k=1).fit(parts.train), parts.test)
        metrics = {m.name: m for m in task.metrics(outcomes)}
        assert list(metrics) == [
            "accuracy",
            "accuracy.original",
            "shift_gap",
            "accuracy.fog",
            "accuracy.snow",
        ]
        everyone = np.arange(outcomes.n)
        values = {name: m.statistic(outcomes).statistic(everyone) for name, m in metrics.items()}
        ids, right = outcomes.truth.ids, outcomes.values["accuracy"]
        moved = np.char.startswith(ids, "c/")
        snow = np.array([i.startswith("c/") and int(i[3:5]) % 5 == 0 for i in ids])
        assert values["accuracy"] == right[moved].mean()
        assert values["accuracy.original"] == right[~moved].mean()
        assert values["accuracy.snow"] == right[snow].mean()
        assert values["accuracy.fog"] == right[moved & ~snow].mean()
        assert values["shift_gap"] == pytest.approx(values["accuracy.original"] - values["accuracy"])
        assert metrics["accuracy.fog"].higher_is_better
        assert metrics["shift_gap"].higher_is_better is False


def test_labels_that_are_the_nine_names_need_no_wordnet(roots) -> None:
    rows = [Row(f"x{i:02d}.png", labels={"label": ("dog", "bird")[i % 2]}) for i in range(6)]
    task = ShiftTask(Manifest(str(roots / "in9"), tuple(base_rows())), shifted=Manifest(str(roots / "c"), tuple(rows)))
    assert (task.roles == "test").sum() == 20 + 6  # no split: all of it


def test_what_cannot_be_mapped_is_refused(roots, listed) -> None:
    base, other = Manifest(str(roots / "in9"), tuple(base_rows())), Manifest(str(roots / "c"), tuple(shifted_rows()))
    with pytest.raises(UsageError, match="hypernyms"):
        ShiftTask(base, shifted=other)
    stranger = Manifest(str(roots / "c"), (Row("x00.png", labels={"label": "n09999999"}),))
    with pytest.raises(DataError, match="WordNet 3"):
        ShiftTask(base, shifted=stranger, hypernyms=listed)
    only_train = Manifest(str(roots / "c"), (Row("x00.png", split="train", labels={"label": "dog"}),))
    with pytest.raises(DataError, match="training rows only"):
        ShiftTask(base, shifted=only_train)
