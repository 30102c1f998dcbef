"""The rooms of the house and the arrows between them: who may import whom, held by walking the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("bandit", "joiner", "evaluation", "serving", "simulator", "rewardloop_client")

BELOW_THE_LEARNER = ("bandit", "joiner", "evaluation")
# package → which of ours it may import; a dotted entry allows that module alone
ALLOWED: dict[str, set[str]] = {
    "bandit": {"bandit"},
    "evaluation": {"evaluation", "bandit.errors"},
    "joiner": {"joiner", "bandit"},
    "serving.api": {"serving.api", "bandit"},
    "serving.learner": {"serving.learner", *BELOW_THE_LEARNER},
    "serving.learner.training": {"serving.learner.training", "serving.learner.scores", *BELOW_THE_LEARNER},
    "serving.learner.challengers": {
        *(f"serving.learner.{part}" for part in ("challengers", "reports", "scores", "workspace")),
        *BELOW_THE_LEARNER,
    },
    "serving.learner.verdicts": {
        *(f"serving.learner.{part}" for part in ("verdicts", "challengers", "training", "training_step")),
        *(f"serving.learner.{part}" for part in ("reports", "retention", "workspace")),
        *BELOW_THE_LEARNER,
    },
    "simulator": {"simulator", "rewardloop_client", "bandit.types"},
    "rewardloop_client": {"rewardloop_client"},
}
# third-party package → the only packages of ours that may import it
CONFINED: dict[str, set[str]] = {
    "duckdb": {"joiner"},
    "vowpalwabbit": {"bandit"},
    "fastapi": {"serving"},
    "apscheduler": {"serving.learner"},
}
SOURCES = sorted(
    path
    for folder in ("bandit", "joiner", "evaluation", "serving", "simulator")
    for path in (ROOT / folder).rglob("*.py")
) + sorted((ROOT / "clients/python/rewardloop_client").rglob("*.py"))
PACKAGES = (*OURS, "serving.learner")


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[:2] == ["clients", "python"]:
        parts = parts[2:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; name the package"
            base = node.module or ""
            # `from bandit import errors` names a module, `from bandit.errors import X` a thing inside one
            found += [(node.lineno, f"{base}.{alias.name}" if base in PACKAGES else base) for alias in node.names]
    return found


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def rule_for(module: str) -> set[str] | None:
    owners = [package for package in ALLOWED if within(module, package)]
    return ALLOWED[max(owners, key=len)] if owners else None


def module_graph() -> dict[str, set[str]]:
    names = {module_name(path) for path in SOURCES}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for path in SOURCES:
        tree = ast.parse(path.read_text("utf-8"))
        for node in tree.body:  # imports inside functions are how a cycle is broken on purpose: none may be needed
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    target = f"{node.module}.{alias.name}"
                    target = target if target in names else node.module
                    if target in names:
                        graph[module_name(path)].add(target)
            elif isinstance(node, ast.Import):
                graph[module_name(path)].update(alias.name for alias in node.names if alias.name in names)
    return graph


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_arrows_between_packages_point_down_only(path: Path) -> None:
    module = module_name(path)
    allowed = rule_for(module)
    for line, target in imports_of(path):
        if allowed is not None and target.split(".")[0] in OURS:
            assert any(within(target, package) for package in allowed), f"{module}:{line} must not import {target}"
        for package, homes in CONFINED.items():
            if within(target, package):
                assert any(within(module, home) for home in homes), f"{module}:{line} must not import {target}"


def test_the_rules_catch_a_forbidden_import() -> None:
    assert rule_for("bandit.policies") == {"bandit"}
    assert rule_for("serving.api.app") == {"serving.api", "bandit"}
    assert not any(within("joiner.warehouse", package) for package in ALLOWED["evaluation"])


def test_no_module_depends_on_itself_through_others() -> None:
    graph = module_graph()
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join((*trail[trail.index(module) :], module))
        if module in done:
            return
        for target in sorted(graph[module]):
            if target != module and not target.startswith(module + ".") and not module.startswith(target + "."):
                visit(target, (*trail, module))
        done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_every_module_says_why_it_exists() -> None:
    assert [module_name(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text("utf-8")))] == []
