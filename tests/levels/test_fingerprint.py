"""Fingerprints by declaration: formulas, algorithms and imports count.

Comments, docstrings and layout do not.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ecdctr.code import PACKAGE, _closure, _file, _imports, code_digest
from ecdctr.config import LEVELS, Level
from ecdctr.evaluation.basis import EVALUATING
from ecdctr.examples import extracts
from ecdctr.levels.actr import Actr
from ecdctr.levels.cpm import Cpm
from ecdctr.levels.fingerprint import LEARNING, fingerprint, roots
from ecdctr.levels.request import Plan, Request
from ecdctr.levels.tpm import Tpm
from ecdctr.studies.ablation.study import MEASURING
from tests.conftest import DATE

CHANGES = [  # file, text, in its place, whose results change
    ("models/tpm.py", "product.sum(1)", "product.sum(1) + 0", {"tpm", "actr"}),
    ("models/transfer.py", "return strength / 2", "return strength / 3", {"tpm", "cpm", "actr"}),
    ("training/optimizers.py", "EPSILON = 1e-8", "EPSILON = 1e-7", {"tpm", "cpm", "actr"}),
    ("models/backbones/mlp.py", "class Mlp(", "class Mlp_(", {"cpm", "actr"}),
    ("levels/reading.py", ".get(day.date, 0)", ".get(day.date, 1)", {"tpm", "cpm", "actr"}),
    ("levels/run.py", "built.start.penalty", "None", {"tpm", "cpm", "actr"}),
    ("files/rounding.py", "/ 127", "/ 126", {"tpm", "cpm", "actr"}),
    ("levels/cpm.py", "if not parent:", "if not parent or 0:", {"cpm"}),
    ("levels/actr.py", "FISHER_BATCHES = 50", "FISHER_BATCHES = 51", {"actr"}),
    ("examples/batches.py", "math.ceil(", "math.floor(", {"tpm", "cpm", "actr"}),
    ("examples/chunks.py", "< part.share", "<= part.share", {"tpm", "cpm", "actr"}),
    ("examples/query.py", "d.ts > e.ts", "d.ts >= e.ts", {"prepare"}),
    ("examples/extracts.py", "ALGORITHM = 3", "ALGORITHM = 4", {"prepare"}),
    ("impressions/contract.py", "click IN (0, 1)", "click IN (0, 2)", {"prepare"}),
    ("evaluation/metrics.py", "1e-", "2e-", set()),
    ("examples/spark.py", "f.floor(", "f.ceil(", set()),
    ("store/versions.py", "PRODUCTION", "PRODUCTION ", set()),
]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    copy = tmp_path / "ecdctr"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.html"))
    return copy


def digests(package: Path) -> dict[str, str]:
    levels = {level: code_digest(roots(level), LEARNING, package) for level in LEVELS}
    preparing = code_digest(["examples.prepare"], extracts.PREPARING, package)
    return {**levels, "prepare": preparing}


def edited(package: Path, name: str, text: str) -> Path:
    """Return a copy of the package with another text in one file."""
    copy = package.parent / "edited" / "ecdctr"
    shutil.copytree(package, copy)
    (copy / name).write_text(text)
    return copy


def changed_by_edit(package: Path, name: str, text: str) -> set[str]:
    before = digests(package)
    return {of for of, value in digests(edited(package, name, text)).items() if value != before[of]}


@pytest.mark.parametrize(("name", "old", "new", "expected"), CHANGES)
def test_a_changed_formula_renames_what_it_computes_and_nothing_else(
    package, name, old, new, expected
):
    text = (package / name).read_text()
    assert old in text
    assert changed_by_edit(package, name, text.replace(old, new, 1)) == expected


def test_comments_docstrings_and_layout_rename_nothing(package):
    before = digests(package)
    for path in package.rglob("*.py"):
        text = path.read_text().replace('"""', '"""Otherwise said: ', 1)
        path.write_text(f"{text}\n\n\n# a comment\n")
    copy = package.parent / "again" / "ecdctr"
    shutil.copytree(package, copy)
    assert digests(copy) == before


def test_another_data_file_beside_the_modules_renames_nothing(package):
    (package / "models" / "unused.py").write_text("VALUE = 1\n")
    assert digests(package) == digests(PACKAGE)


@pytest.mark.parametrize("steps", [Tpm, Cpm, Actr])
def test_an_algorithm_number_renames_a_level(steps, config, store):
    level: Level = {Tpm: "tpm", Cpm: "cpm", Actr: "actr"}[steps]
    request, plan = Request(config, store, DATE), Plan(level, {}, [DATE])
    assert fingerprint(request, steps.algorithm, plan, {}) != fingerprint(
        request, steps.algorithm + 1, plan, {}
    )


def test_whatever_an_evaluation_computes_with_is_in_the_digest_of_its_code():
    """All of the rooms that compute, but what names the examples and what only carries values."""
    apart = {"examples", "examples.prepare", "levels.other_inputs", "levels.request"}
    reached = _closure(["evaluation.evaluate"], EVALUATING, PACKAGE)
    imported = {one for name in reached for one in _imports(_file(name, PACKAGE), PACKAGE)}
    computing = {"evaluation", "examples", "levels", "memory", "models", "training"}
    assert {one for one in imported - reached if one.split(".")[0] in computing} == apart


APART = {  # what a training imports and is not in the digest of its code, and why
    "config": "settings enter by their values",
    "config.terms": "names of the contract's columns, which data and settings agree with",
    "errors": "sentences",
    "examples": "says nothing",
    "examples.clean": "preparation has a fingerprint, which enters",
    "examples.prepare": "the same",
    "examples.remembered": "memory's tables have a fingerprint, which enters",
    "files": "says nothing",
    "files.duck": "how DuckDB is opened",
    "files.durable": "how files are put in place",
    "impressions": "says nothing",
    "impressions.contract": "of preparation",
    "impressions.days": "the days that are read enter",
    "impressions.delivery": "says or refuses what a domain lacks; the days that are read enter",
    "impressions.impressions": "where files lie; their content enters",
    "impressions.quality": "stops or warns, and changes no weight",
    "impressions.reading": "holds listings for a command",
    "levels.fingerprint": "it names",
    "levels.request": "carries values",
    "memory.columns": "of preparation and of memory's tables",
    "memory.table": "of memory's tables",
    "store.aliases": "records what is newest",
    "store.manifest": "names and records",
    "store.store": "keeps files as they are",
    "training.process": "memory and threads of the process",
    "training.progress": "goes on in the same weights, as tests hold",
}


@pytest.mark.parametrize("level", LEVELS)
def test_whatever_a_level_imports_is_in_the_digest_of_its_code_or_stands_apart_with_a_reason(level):
    reached = _closure(roots(level), LEARNING, PACKAGE)
    imported = {one for name in reached for one in _imports(_file(name, PACKAGE), PACKAGE)}
    assert imported - reached <= set(APART)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("evaluation/expected.py", "judged", "judged_"),
        ("evaluation/metrics.py", "1e-", "2e-"),
        ("examples/held_out.py", "config", "config_"),
        ("studies/floors.py", "+ rate", "- rate"),
        ("studies/ablation/plan.py", "days=6", "days=7"),
        ("studies/ablation/study.py", "next_day", "next_day_"),
        ("worlds/daily.py", "rng", "rng_"),
    ],
)
def test_another_way_to_measure_makes_a_studys_records_anew(package, name, old, new):
    before = code_digest(["studies.ablation.study"], MEASURING, package)
    text = (package / name).read_text()
    assert old in text
    copy = edited(package, name, text.replace(old, new))
    assert code_digest(["studies.ablation.study"], MEASURING, copy) != before


def test_a_root_that_is_no_module_is_an_error():
    with pytest.raises(FileNotFoundError):
        code_digest(["levels.none"], LEARNING)
