"""The docs say what the code does: every setting and command is in them, and every link leads somewhere."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
from pathlib import Path

import click
import pytest

from serving.cli import LazyGroup

COMMANDS = LazyGroup().list_commands(click.Context(LazyGroup()))
ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_the_pages_that_are_generated_are_what_code_and_results_say() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (ROOT / "docs/settings.md").read_text("utf-8") == generate.settings_page()
    assert (ROOT / "docs/benchmarks.md").read_text("utf-8") == generate.benchmarks_page()


def test_tables_of_speed_say_what_the_results_beside_them_say() -> None:
    results = ROOT / "benchmarks/results"
    log = (ROOT / "docs/event-log.md").read_text("utf-8")
    for line in (results / "event_log.txt").read_text("utf-8").splitlines():
        if re.match(r"\| \d", line):
            flight, rate, _, p50, p99, sync, verify, _ = (cell.strip() for cell in line.strip("|").split("|"))
            assert f"| {flight} | {rate} | {p50} | {p99} | {sync} | {verify} |" in log
    joins = (ROOT / "docs/joins.md").read_text("utf-8")
    measured = re.findall(r"^(?:ingest|join|window).* = (\d\.\d\d);", (results / "joins.txt").read_text("utf-8"), re.M)
    assert re.findall(r"\| (\d\.\d\d) \|$", joins, re.M) == measured


def test_every_command_is_described_in_the_docs() -> None:
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    assert [name for name in COMMANDS if f"rewardloop {name}" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_that_has_the_learner_start_processes_does_nothing_when_they_import_it_anew(page: Path) -> None:
    for script in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        body = ast.parse(script).body
        if "serving.learner" in script:
            *imports, guarded = body
            assert all(isinstance(line, ast.Import | ast.ImportFrom) for line in imports)
            assert ast.unparse(guarded).startswith("if __name__ == '__main__':")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_docs_takes_no_name_from_nowhere(page: Path) -> None:
    for script in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        nodes = list(ast.walk(ast.parse(script)))
        names = [node for node in nodes if isinstance(node, ast.Name)]
        known = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | set(dir(builtins)) | {"__name__"}
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                known |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.FunctionDef):
                known |= {node.name, *(argument.arg for argument in node.args.args)}
        assert {node.id for node in names} - known == set()


def test_every_file_that_the_map_names_exists() -> None:
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)*/(?:[a-z_]+\.py)?)`", (ROOT / "ARCHITECTURE.md").read_text("utf-8"))
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []
