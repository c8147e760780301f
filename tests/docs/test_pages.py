"""The documentation agrees with the repository: links, file names, tables of names, generated references."""

import re
from pathlib import Path

import pytest

from scotd_jax.models.registry import PRESETS
from scotd_jax.rationales.importers.registry import COMMON_OPTIONS, IMPORTERS
from scotd_jax.tasks.prompt_formats import FORMATS
from scotd_jax.tasks.recipes import FIELDS, RECIPES
from scotd_jax.tasks.registry import KINDS
from tests.docs.pages import DOCS, PAGES, ROOT, anchors_of, links_of
from tests.docs.test_code_blocks import main_flags

README = (ROOT / "README.md").read_text()


def page_text(name: str) -> str:
    return (DOCS / name).read_text()


def test_readme_stays_short():
    assert len(README.splitlines()) <= 200
    assert len(README.encode()) <= 10_000


def test_readme_picture_is_small():
    assert (DOCS / "images" / "report.png").stat().st_size < 200_000


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_internal_links_resolve(page):
    for link in links_of(page):
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link}: no such file"
        if anchor and not anchor.startswith("config-"):
            assert anchor in anchors_of(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_named_files_exist(page):
    text = page.read_text()
    for path in re.findall(r"`((?:scotd_jax|configs|launch|tests|benchmarks|docs|examples)/[\w/.-]+\.\w+)`", text):
        assert (ROOT / path).is_file() or Path(path).name in ("zoo.py", "pears.jsonl"), path
    for module in re.findall(r"python -m (benchmarks\.\w+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


def test_every_guarantee_names_a_test():
    rows = [line for line in page_text("guarantees.md").splitlines() if line.startswith("| ") and "promise" not in line]
    assert len(rows) > 20
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py`", row), row


def test_every_page_is_in_the_table_of_contents():
    listed = re.findall(
        r"^([\w/-]+)$", "\n".join(re.findall(r"```\{toctree\}(.*?)```", page_text("index.md"), flags=re.S)), flags=re.M
    )
    pages = {str(p.relative_to(DOCS).with_suffix("")) for p in [*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]}
    assert {p for p in pages if not p.startswith("_")} == {*listed, "index"}


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("guides/tasks.md", KINDS),
        ("guides/tasks.md", FORMATS),
        ("guides/imports.md", IMPORTERS),
        ("guides/imports.md", COMMON_OPTIONS),
        ("guides/recipes.md", RECIPES),
        ("guides/recipes.md", [f"{{{field}}}" for field in FIELDS]),
        ("reference/cli.md", [f"--{name}" for name in main_flags()]),
        ("papers.md", [f"configs/{path.name}" for path in (ROOT / "configs").glob("*.py")]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_page_lists_every_name(page, names):
    missing = [name for name in names if f"`{name}`" not in page_text(page)]
    assert not missing, f"{page} does not mention {', '.join(missing)}"


def test_model_families_are_listed():
    from scotd_jax.models.decoder_families import FAMILIES

    text = page_text("guides/teachers.md")
    assert all(f"`{family}`" in text for family in [*FAMILIES, "opt", "t5"])
    assert PRESETS
