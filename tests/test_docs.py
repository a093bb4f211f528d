"""What the pages and the code say of each other: what is cited is there, and every method has a page."""

import re
from pathlib import Path

import pytest

from unreel.cli.main import main
from unreel.methods import list_methods

ROOT = Path(__file__).parent.parent
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text() for page in sorted((ROOT / "docs").rglob("*.md"))}
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for folder in ("src", "tests", "examples")
    for path in sorted((ROOT / folder).rglob("*.*"))
    if path.suffix in {".py", ".yaml"} and path != Path(__file__)
}
# Outside of the repository no section can be looked up, but those of a paper.
_NO_PAPER = r".{0,40}(?<!\d{4}, )(?<!paper, )§.{0,10}"
_COMMENT = r"\n[ \t]*(?:#[ \t]*)?"


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", PAGES[page], re.MULTILINE)


def joined(text: str) -> str:
    """A citation may go on in the next line of a comment or docstring."""
    return re.sub(_COMMENT, " ", text)


def wrong_citations(text: str) -> list[str]:
    """What a text cites that is not here: a section of no paper, a page that is missing, a heading that no page has."""
    text = joined(text)
    found = [f"{cited}: a section is one of a paper, as in Chen 2020, §4.2" for cited in re.findall(_NO_PAPER, text)]
    for cited in re.finditer(r"(?<![\w/.])(\w+/)*\w+\.md\b(?!\")", text):
        page, after = cited[0], text[cited.end() :]
        if not (ROOT / page).exists():
            found.append(f"{page}: there is no such page")
        elif page in PAGES and re.match(r", [A-Z]", after) and page.startswith("docs/methods/"):
            known = headings(page)
            if not any(re.match(rf", {re.escape(heading)}(?!\w)", after) for heading in known):
                found.append(f"{page}{after[:40]}: its headings are {known}")
    return found


def test_what_is_cited_is_in_the_repository() -> None:
    assert [f"{name}: {wrong}" for name, text in TEXTS.items() for wrong in wrong_citations(text)] == []


def test_a_wrong_citation_is_found() -> None:
    assert wrong_citations("as in docs/methods/cvrl.md, Sampling, and Chen 2020, §4.2") == []
    assert len(wrong_citations("as in cvrl.md §3 (or docs/methods/cvrl.md, Samples;\n    # docs/methods/none.md)")) == 4


@pytest.mark.parametrize("name", PAGES)
def test_links_between_pages_lead_somewhere(name: str) -> None:
    assert re.findall(_NO_PAPER, PAGES[name]) == []
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
