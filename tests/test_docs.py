"""What the pages and the code say of each other: what is cited is there, and every method has a page."""

import re
from pathlib import Path

import pytest

from unreel.cli.main import main
from unreel.methods import list_methods

ROOT = Path(__file__).parent.parent
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text() for page in sorted((ROOT / "docs").rglob("*.md"))}


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", PAGES[page], re.MULTILINE)


@pytest.mark.parametrize("name", PAGES)
def test_links_between_pages_lead_somewhere(name: str) -> None:
    for target, anchor in re.findall(r"\]\(([\w./]*\.\w+)?(?:#([\w-]+))?\)", PAGES[name]):
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), f"{name} links to {target}"
        if anchor:
            page = path.resolve().relative_to(ROOT).as_posix()
            anchors = [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings(page)]
            assert anchor in anchors, f"{name} links to {page}#{anchor}; it has {anchors}"


def test_every_method_has_a_page() -> None:
    for name in list_methods():
        found = headings(f"docs/methods/{name}.md")
        assert {"The idea", "Where we differ", "Try it"} <= set(found), f"docs/methods/{name}.md has {found}"


def commands() -> list[str]:
    return sorted({line for page in PAGES.values() for line in re.findall(r"^unreel (pretrain world.*)$", page, re.M)})


@pytest.mark.parametrize("command", commands())
def test_a_page_s_command_names_what_there_is(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--list-settings"]) == 0, capsys.readouterr().err
