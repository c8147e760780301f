"""The documentation as data: pages, code blocks, links."""

import dataclasses
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
COMPILE_ONLY = "<!-- compile-only -->"  # before a Python block that needs files or packages a test does not have


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced code block. `number` counts the blocks of its page from 1."""

    page: Path
    number: int
    language: str
    text: str
    compile_only: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}:{self.language or 'plain'}"


def blocks_of(page: Path) -> list[Block]:
    """The code blocks of a page, also those inside lists; MyST directives are left out."""
    found, marked, lines = [], False, iter(page.read_text().splitlines())
    for line in lines:
        opening = re.fullmatch(r"( *)```([\w{}-]*).*", line)
        if not opening:
            if line.strip():
                marked = line.strip() == COMPILE_ONLY
            continue
        indent, language = opening.groups()
        body = []
        for inner in lines:
            if inner.strip() == "```":
                break
            body.append(inner.removeprefix(indent))
        if not language.startswith("{"):
            found.append(Block(page, len(found) + 1, language, "\n".join(body) + "\n", marked))
        marked = False
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def commands_of(block: Block) -> list[list[str]]:
    """The commands of a shell block as words; a backslash continues a line."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def prose_of(page: Path) -> str:
    """A page without its code blocks and inline code."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.M | re.S)
    return re.sub(r"`[^`]*`", "", text)


def links_of(page: Path) -> list[str]:
    """Targets of Markdown links and images."""
    return re.findall(r"\]\(([^)\s]+)\)", prose_of(page)) + re.findall(r'(?:src|href)="([^"]+)"', prose_of(page))


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST form it."""
    text = re.sub(r"[`*]", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.M | re.S)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, flags=re.M)}
