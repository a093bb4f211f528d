from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from unreel.core.checks import Range
from unreel.core.errors import UsageError
from unreel.core.settings import Layer, Section, Settings, defaults, describe, load_layers, validate
from unreel.core.strict_yaml import check_shape, load_sections, parse_value, parse_yaml


class Opaque:
    """Something no YAML can hold."""


class Loss:
    def __init__(
        self,
        encoder: Opaque,
        *,
        temperature: Annotated[float, Range(gt=0, le=10)] = 0.1,
        reduction: Literal["mean", "sum_of_views"] = "mean",
        clip_seconds: Annotated[float | None, Range(gt=0, unit="s")] = None,
        layers: tuple[int, ...] = (1, 2),
        heads: Annotated[int, Field(ge=2)] = 2,
        normalize: bool = True,
        title: str = "x",
    ) -> None:
        self.temperature = temperature


def small_loss(**arguments: Any) -> Loss:
    return Loss(Opaque(), **arguments)


def sgd(*, lr: float, momentum: Annotated[float, Range(ge=0, lt=1)] = 0.9) -> dict[str, float]:
    return {"lr": lr, "momentum": momentum}


def adam(*, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)) -> dict[str, object]:
    return {"lr": lr, "betas": betas}


def choose(name: str) -> Any:
    try:
        return {"sgd": sgd, "adam": adam}[name]
    except KeyError:
        raise UsageError(f"unknown optimizer {name!r}") from None


SCHEMA = {"method": Section((small_loss,)), "optimizer": Section(choose=choose, default_name="sgd")}


def test_objects_are_not_settings_and_kwargs_are_followed() -> None:
    assert [i.name for i in describe(Loss)] == [
        "temperature", "reduction", "clip_seconds", "layers", "heads", "normalize", "title",
    ]  # fmt: skip
    assert defaults(small_loss) == defaults(Loss)
    assert defaults(Loss)["layers"] == [1, 2]


def test_describe_tells_type_limits_and_unit() -> None:
    info = {i.name: i for i in describe(Loss)}
    assert (info["temperature"].type, info["temperature"].limits) == ("number", "> 0, ≤ 10")
    assert (info["clip_seconds"].type, info["clip_seconds"].unit) == ("number or none", "s")
    assert info["heads"].limits == "≥ 2"
    assert info["reduction"].type == "mean | sum_of_views"
    assert [i.required for i in describe(sgd)] == [True, False]


def test_validate_converts_and_returns_only_what_was_given() -> None:
    assert validate(Loss, {"temperature": "1e-2", "layers": [3, 4], "normalize": "false"}) == {
        "temperature": 0.01,
        "layers": (3, 4),
        "normalize": False,
    }


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("temprature", 1, "unknown setting method.temprature; did you mean method.temperature?"),
        ("zzz", 1, "unknown setting method.zzz; known: method.clip_seconds, method.heads,"),
        ("encoder", "r3d", "unknown setting method.encoder;"),
        ("temperature", 0, "method.temperature must be > 0, got 0"),
        ("temperature", 11, "method.temperature must be ≤ 10, got 11"),
        ("temperature", "warm", "method.temperature must be number > 0, ≤ 10, got 'warm'"),
        ("heads", 1, "method.heads must be ≥ 2, got 1"),
        ("heads", 2.5, "method.heads must be integer ≥ 2, got 2.5"),
        ("clip_seconds", -1, "method.clip_seconds must be > 0 s, got -1"),
        ("clip_seconds", "x", "method.clip_seconds must be number or none > 0 s, got 'x'"),
        (
            "reduction",
            "sum_of_view",
            "method.reduction must be one of mean, sum_of_views, got 'sum_of_view'; did you mean 'sum_of_views'?",
        ),
        ("layers", [1, "a"], 'method.layers must be list of integer, got [1, "a"]'),
        ("normalize", "perhaps", "method.normalize must be true or false, got 'perhaps'"),
    ],
)
def test_a_refusal_says_what_was_expected(key: str, value: object, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate(Loss, {key: value}, "method")
    assert str(caught.value).startswith(message)


def test_duplicate_keys_are_refused_with_both_lines() -> None:
    with pytest.raises(UsageError, match=r"r\.yaml:3: 'a' is set twice \(first on line 2\)"):
        parse_yaml("s:\n  a: 1\n  a: 2\n", source="r.yaml")
    with pytest.raises(UsageError, match=r"r\.yaml:2: 's' is set twice"):
        parse_yaml("s: {}\ns: {}\n", source="r.yaml")
    with pytest.raises(UsageError, match=r"r\.yaml:2:"):
        parse_yaml("s:\n\ta: 1", source="r.yaml")


def test_depth_and_shape() -> None:
    with pytest.raises(UsageError, match="two levels deep at most"):
        check_shape({"s": {"a": {"b": 1}}}, source="r")
    with pytest.raises(UsageError, match="section 's' must hold settings"):
        check_shape({"s": 1}, source="r")
    with pytest.raises(UsageError, match="expected sections"):
        check_shape([1], source="r")
    assert check_shape({"s": None}, source="r") == {"s": {}}


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.2", 0.2), ("1e-6", 1e-6), ("none", None), ("true", True), ("[1, 1]", [1, 1]), ("cvrl", "cvrl"), ("{", "{")],
)
def test_command_line_values(text: str, value: object) -> None:
    assert parse_value(text) == value


def resolve(*layers: tuple[str, Mapping[str, Mapping[str, object]]], header: str = "") -> Settings:
    return Settings.resolve(SCHEMA, [Layer(origin, sections) for origin, sections in layers], header=header)


def test_later_layers_win_and_origins_are_kept() -> None:
    settings = resolve(
        ("recipe r", {"method": {"temperature": 0.5, "heads": 3}, "optimizer": {"lr": 0.1}}),
        ("command line", {"method": {"temperature": 0.2}}),
    )
    assert settings["method"]["temperature"] == 0.2
    assert settings.origins["method"]["temperature"] == "command line"
    assert settings.origins["method"]["heads"] == "recipe r"
    assert settings.origins["method"]["title"] == "default"
    assert settings["method"]["layers"] == (1, 2)
    assert settings.arguments("optimizer") == {"lr": 0.1, "momentum": 0.9}
    assert Loss(Opaque(), **settings.arguments("method")).temperature == 0.2


def test_a_changed_name_starts_from_its_own_defaults() -> None:
    settings = resolve(
        ("recipe r", {"optimizer": {"lr": 0.1, "momentum": 0}}), ("call", {"optimizer": {"name": "adam"}})
    )
    assert settings.to_plain()["optimizer"] == {"name": "adam", "lr": 1e-3, "betas": [0.9, 0.999]}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optimiser": {}}, "unknown section 'optimiser'; did you mean 'optimizer'?"),
        ({"optimizer": {}}, "optimizer.lr is missing; expected number"),
        ({"optimizer": {"name": "sdg"}}, "optimizer.name: unknown optimizer 'sdg'"),
        ({"optimizer": {"lr": 1, "momentum": 1}}, "optimizer.momentum must be < 1, got 1"),
        ({"method": {"name": "x"}, "optimizer": {"lr": 1}}, "unknown setting method.name"),
    ],
)
def test_wrong_sections(sections: Mapping[str, Mapping[str, object]], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(("call", sections))
    assert message in str(caught.value)


def run(*, steps: int | None = None, epochs: float | None = None, seed: int = 0, echo: Any = None) -> None: ...


def load(batch_size: int, *, seed: int = 0, workers: Annotated[int, Range(ge=0)] = 2) -> None: ...


TRAIN = {
    "train": Section((run, load), omit=frozenset({"echo"}), exclusive=(frozenset({"steps", "epochs"}),)),
}


def test_a_section_may_serve_several_constructors() -> None:
    settings = Settings.resolve(TRAIN, [Layer("call", {"train": {"batch_size": 4, "seed": 3, "steps": 1}})])
    assert settings.arguments("train", run) == {"steps": 1, "epochs": None, "seed": 3}
    assert settings.arguments("train", load) == {"batch_size": 4, "seed": 3, "workers": 2}
    with pytest.raises(UsageError, match=r"train\.batch_size is missing; expected integer"):
        Settings.resolve(TRAIN, [])


def test_a_later_layer_replaces_an_alternative() -> None:
    recipe = Layer("recipe r", {"train": {"batch_size": 4, "epochs": 10}})
    settings = Settings.resolve(TRAIN, [recipe, Layer("command line", {"train": {"steps": 5}})])
    assert (settings["train"]["steps"], settings["train"]["epochs"]) == (5, None)
    # A config.yaml names every setting, unset ones too: they must not push out the one that is set.
    again = Settings.resolve(TRAIN, [recipe, Layer("default", {"train": {"steps": None}})])
    assert (again["train"]["steps"], again["train"]["epochs"]) == (None, 10)


def wired(
    *,
    rate: Literal["cosine", "constant"] | Callable[[int], float] = "cosine",
    probe: Callable[[int], float] | None = None,
    warm: Annotated[float | Callable[[int], float], Range(ge=0)] = 0.0,
) -> None: ...


def test_functions_are_not_settings() -> None:
    assert [(i.name, i.type, i.limits) for i in describe(wired)] == [
        ("rate", "cosine | constant", ""),
        ("warm", "number", "≥ 0"),
    ]
    with pytest.raises(UsageError, match=r"rate must be one of cosine, constant, got 'cosin'; did you mean 'cosine'"):
        validate(wired, {"rate": "cosin"})


def test_omitted_parameters_are_refused() -> None:
    schema = {"optimizer": Section((sgd,), omit=frozenset({"lr"}))}
    assert Settings.resolve(schema, []).to_plain() == {"optimizer": {"momentum": 0.9}}
    with pytest.raises(UsageError, match=r"optimizer\.lr is not a setting"):
        Settings.resolve(schema, [Layer("call", {"optimizer": {"lr": 1}})])


def test_config_yaml_comes_back_with_values_and_origins(tmp_path: Any) -> None:
    settings = resolve(
        ("recipe r", {"optimizer": {"name": "adam", "lr": 1e-6}, "method": {"title": "a # b: 'c'", "clip_seconds": 2}}),
        ("command line", {"method": {"layers": [5]}}),
        header="unreel\nrun me again",
    )
    file = tmp_path / "config.yaml"
    settings.dump(file)
    again = Settings.resolve(SCHEMA, load_layers(file))
    assert again.to_plain() == settings.to_plain()
    assert again.origins == settings.origins
    assert file.read_text().startswith("# unreel\n# run me again\nmethod:\n  temperature: 0.1")


def test_unreadable_recipe(tmp_path: Any) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: cannot be read"):
        load_sections(tmp_path / "none.yaml")


plain = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False), st.text(max_size=20),
    st.lists(st.integers(-9, 9), max_size=4),
)  # fmt: skip


def anything(*, value: Any = 0, items: Sequence[int] = ()) -> None: ...


@given(plain)
def test_any_plain_value_survives_yaml(value: object) -> None:
    settings = Settings.resolve({"s": Section((anything,))}, [Layer("call", {"s": {"value": value}})])
    assert check_shape(parse_yaml(settings.to_yaml()), source="x")["s"]["value"] == value
