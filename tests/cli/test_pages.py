import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import sidtool
from tests.cli.road import Road, flags
from tests.doc_blocks import DOCS, ROOT, commands, page

MODULE = re.compile(r"`((?!docs|tests|benchmarks|examples/re)[\w/]+(?:\.py|/))`")
WRITTEN = sorted(path.name for path in DOCS.glob("*.md"))


def test_every_command_on_a_page_has_its_options() -> None:
    texts = (page(name) for name in WRITTEN)
    lines = [line.words for text in texts for line in commands(text, "bash", "sh", "console")]
    assert len(lines) > 200
    for verb, *words in lines:
        if not verb.startswith("-"):
            named = {word for word in words if re.match(r"--?[a-z]", word)}
            assert named <= flags(verb), (verb, *words)


def messages() -> Iterator[str]:
    """Every message of an error in the source, with … for its values."""
    for path in (ROOT / "sidtool").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    part.value if isinstance(part, ast.Constant) else "…" for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_error_lines_of_troubleshooting_are_those_of_the_source() -> None:
    lines = re.findall(r"^\| `(.+?)` \| ", page("troubleshooting.md"), flags=re.MULTILINE)
    assert len(lines) > 30
    assert set(lines) - set(messages()) == set()


def test_the_python_page_lists_every_public_name() -> None:
    names = re.findall(r"^::: sidtool\.(\w+)$", page("api.md"), flags=re.MULTILINE)
    assert sorted(names) == sorted(set(sidtool.__all__) - {"__version__"})


def test_every_page_is_in_the_navigation_and_every_link_leads_somewhere() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = [
        target
        for part in settings["nav"]
        for pages in part.values()
        for entry in pages
        for target in entry.values()
    ]
    outside = {"CONTRIBUTING.md", "SECURITY.md"}
    assert {name for name in listed if "/" not in name} - outside == set(WRITTEN)
    for name in WRITTEN:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page(name)):
            assert "://" in target or (DOCS / target).exists(), (name, target)
            assert target[3:] in listed or not target.startswith("../"), (name, target)


def test_every_module_that_design_and_extending_name_exists() -> None:
    text = page("design.md")
    houses = re.findall(r"^\| `(\w+)/` \| (?:.*?) \| (.*) \|$", text, flags=re.MULTILINE)
    packages = {path.parent.name for path in (ROOT / "sidtool").glob("*/__init__.py")}
    assert {name for name, _ in houses} == packages
    named = {f"{house}/{name}" for house, cell in houses for name in MODULE.findall(cell)}
    inside = text[text.index("## Why a thing stands") :] + page("extending.md")
    named |= {name for name in MODULE.findall(inside) if "/" in name.rstrip("/")}
    assert {name for name in named if not (ROOT / "sidtool" / name).exists()} == set()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'id="sidtool.build_codebook"' in (tmp_path / "api/index.html").read_text("utf-8")


def test_the_first_pages_need_no_choice_of_model_or_levels() -> None:
    for name in ("README.md", "docs/tutorial.md", "docs/fit.md", "Makefile"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.findall(r"--preset (?!neox-tiny)\S+|--levels \S+", text), name


LONGEST = 250


def test_values_that_grow_with_the_data_are_one_short_line(road: Road) -> None:
    bundle = sidtool.open_bundle(road.bundle)
    split = sidtool.open_split(road.split)
    other = sidtool.open_bundle(road.folder / "other.zarr")
    evaluation = sidtool.evaluate(road.tuned, road.split, limit=5)
    values: dict[str, object] = {
        f"<Bundle '{bundle.manifest.name}': 60 items": bundle,
        "<60 items, the first is 'b000': text '{title}'": sidtool.read_items(road.items),
        "<Split by leave-one-out: 40 users": split,
        "<PackedSequences: 40>": split.train,
        "<PackedExamples: 40>": split.test,
        "<Memory of 60 items, ": sidtool.build_memory(split, bundle),
        "<Diff: ": sidtool.diff(bundle, other),
        "<LoadedModel of ": sidtool.load_model_folder(road.tuned),
        "<Evaluation of 5 examples, ndcg@10: model ": evaluation,
    }
    for start, value in values.items():
        shown = repr(value)
        assert shown.startswith(start), shown
        assert shown.endswith(">")
        assert len(shown) < LONGEST, shown
        assert "\n" not in shown
