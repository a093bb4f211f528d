import pytest

from unreel.core.errors import UsageError
from unreel.core.registry import Registry


def make() -> Registry:
    registry = Registry("encoder")

    @registry.register()
    def r3d_50(width: int = 1) -> str:
        return f"r3d_50 x{width}"

    @registry.register("r3d_101")
    def deep() -> str:
        return "r3d_101"

    registry.register("c3d")(str)
    return registry


def test_lookup_and_names():
    registry = make()
    assert registry["r3d_50"](width=2) == "r3d_50 x2"
    assert registry["r3d_101"]() == "r3d_101"
    assert "c3d" in registry
    assert "deep" not in registry
    assert 3 not in registry
    assert registry.names() == ["c3d", "r3d_101", "r3d_50"]
    assert registry.names("r3d_*") == ["r3d_101", "r3d_50"]
    assert registry.names("x*") == []


def test_the_decorated_function_stays_usable():
    registry = Registry("method")

    @registry.register()
    def cvrl() -> int:
        return 3

    assert cvrl() == 3
    assert registry["cvrl"] is cvrl


def test_unknown_names_meet_the_nearest_ones():
    registry = make()
    with pytest.raises(UsageError, match=r"unknown encoder 'r3d50'; did you mean 'r3d_50'"):
        registry["r3d50"]
    with pytest.raises(UsageError, match=r"unknown encoder 'zzz'; known: c3d, r3d_101, r3d_50"):
        registry["zzz"]
    with pytest.raises(UsageError) as caught:
        registry["zzz"]
    assert caught.value.__cause__ is None  # no KeyError above it in the report
    assert caught.value.__suppress_context__


def test_a_name_is_registered_once():
    registry = make()
    with pytest.raises(ValueError, match="encoder 'c3d' is registered twice"):
        registry.register("c3d")(int)
    assert registry["c3d"] is str


def test_registries_do_not_share_entries():
    assert make().names() != Registry("task").names() == []
