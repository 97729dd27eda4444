"""The rules of the house that neither ruff, nor mypy, nor import-linter can hold."""

from __future__ import annotations

import ast
import io
import re
import shlex
import tokenize
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.conftest import REPOSITORY

FOLDERS = ("ecdctr", "dags", "plugins", "benchmarks", "tests")
EMPTY_WORDS = {"found", "known", "own", "wanted"}  # a name says what a thing is
STORED = {("ple.py", "own")}  # weights of published versions lie under this name
EXCEPTION = re.compile(r"#\s*(noqa|type: ignore)\b(?:: ?[A-Z][A-Z0-9, ]+|\[[a-z-]+\])?(.*)")
MOST = {"noqa": 36, "type: ignore": 8}  # half of what there was before the rule


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((REPOSITORY / folder).rglob("*.py"))


def exceptions() -> Iterator[tuple[str, str, str]]:
    """Yield each exception to a rule: its kind, where it stands, and the reason behind it."""
    for path in sources(*FOLDERS):
        text = io.StringIO(path.read_text("utf-8"))
        for token in tokenize.generate_tokens(text.readline):
            if token.type == tokenize.COMMENT and (match := EXCEPTION.match(token.string)):
                where = f"{path.relative_to(REPOSITORY)}:{token.start[0]}"
                yield match[1], where, match[2].strip()


def test_each_exception_to_a_rule_stands_with_its_reason():
    assert [where for _, where, reason in exceptions() if not reason.startswith("# ")] == []


def test_exceptions_stay_few():
    kinds = [kind for kind, *_ in exceptions()]
    for kind, most in MOST.items():
        assert 0 < kinds.count(kind) <= most, f"{kind}: write it so that none is needed"


def names_given(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a module gives: of variables, parameters, attributes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def test_names_say_what_things_are():
    empty = {
        (path.name, name)
        for path in sources(*FOLDERS)
        for name in names_given(ast.parse(path.read_text("utf-8")))
        if name.strip("_").lower() in EMPTY_WORDS
    }
    assert empty == STORED


def test_no_test_module_imports_another():
    """What tests share lies in tests/make.py, or in a module beside them that holds no test."""
    imports = [
        f"{path.relative_to(REPOSITORY)}: {node.module}"
        for path in sources("tests")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and re.search(r"\.test_\w+$", node.module or "")
    ]
    assert imports == []


def test_before_each_commit_runs_what_lint_runs():
    line = re.search(r"lint\) install lint; (.*) ;;", (REPOSITORY / "run").read_text("utf-8"))
    assert line
    lint = [shlex.split(part.strip().removeprefix("exec ")) for part in line[1].split("&&")]
    (local,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    hooks = [shlex.split(hook["entry"].removeprefix(".venv/bin/")) for hook in local["hooks"]]
    assert hooks == lint
