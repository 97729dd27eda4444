"""What others build on: the public names, their page, and what each extra brings."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ecdctr
from ecdctr.cli.net import explained
from ecdctr.errors import UNFORESEEN
from ecdctr.serving.scorer import Scorer
from tests.conftest import REPOSITORY
from tests.make import write_config

HEAVY = {"torch", "duckdb", "matplotlib"}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
NOT_FROM_PYPI_BY_NAME = {
    "torchrec",  # installed without its metadata's needs: ./run, docs/several-machines.md
    "deepctr_torch", "fuxictr",  # in environments of their own: benchmarks/peer_*.py
}  # fmt: skip


SERVING = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["serving"]]


def needs(texts: list[str]) -> set[str]:
    """Return every distribution that pip would install for these requirements.

    By the metadata of those that are installed here, with the extras that each asks for. Raises
    PackageNotFoundError for one that is not.
    """
    seen: dict[str, set[str]] = {}
    waiting = [Requirement(text) for text in texts]
    while waiting:
        asked = waiting.pop()
        name = canonicalize_name(asked.name)
        if name in seen and asked.extras <= seen[name]:
            continue
        extras = seen.setdefault(name, {""})
        extras |= asked.extras
        for text in importlib.metadata.requires(name) or []:
            one = Requirement(text)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(one)
    return {*seen}


def test_scoring_installs_neither_torch_nor_duckdb_nor_matplotlib():
    assert not needs(SERVING) & HEAVY


def test_what_learning_needs_comes_with_its_own_extra():
    declared = {Requirement(text).name for text in PROJECT["optional-dependencies"]["train"]}
    assert declared >= HEAVY


def linked(name: str, target: Path) -> None:
    """Link the files of an installed distribution into a folder, as pip would lay them there."""
    for file in importlib.metadata.files(name) or []:
        if ".." not in file.parts:  # its commands
            path = target / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(file.locate())


@pytest.fixture(scope="module")
def serving_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what `pip install ecdctr[serving]` would put into site-packages."""
    folder = tmp_path_factory.mktemp("site-packages")
    for name in needs(SERVING):
        linked(name, folder)
    (folder / "ecdctr").symlink_to(REPOSITORY / "ecdctr")
    return folder


def run_alone(site: Path, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with the standard library and one folder of packages, and nothing else."""
    begin = f"import sys; sys.path.append({str(site)!r})\n"
    command = [sys.executable, "-I", "-S", "-c", begin + code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_bundle_is_scored_with_the_extra_serving_alone(serving_alone, shipped, tmp_path):
    request = json.loads((shipped / "selftest.json").read_text())[0]["request"]
    code = f"""
import importlib.util, json
from pathlib import Path
from ecdctr import Scorer
scores = Scorer(Path({str(shipped)!r})).score({request!r})
there = [name for name in {sorted(HEAVY)} if importlib.util.find_spec(name)]
print(json.dumps([there, [float(score) for score in scores]]))
"""
    done = run_alone(serving_alone, code, tmp_path)
    assert done.returncode == 0, done.stderr
    there, scores = json.loads(done.stdout)
    assert there == []
    assert scores == pytest.approx(Scorer(shipped).score(request), abs=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["serve", "--help"], ["score", "--help"], ["store", "list"]],
    ids=" ".join,
)
def test_scoring_and_serving_start_with_the_extra_serving_alone(serving_alone, arguments, tmp_path):
    code = (
        "from ecdctr import Scorer, Store; import ecdctr.serving.service, ecdctr.serving.follow; "
        "from ecdctr.cli.net import run; "
        f"from ecdctr.cli import app; sys.exit(run(app, {arguments!r}))"
    )
    done = run_alone(serving_alone, code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_doctor_says_what_the_extra_train_would_bring(world, tmp_path):
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in sorted(HEAVY))
    code = (
        f"import sys; {blocked}from pathlib import Path; from ecdctr.doctor import examine; "
        f"print(*examine(Path({str(write_config(tmp_path / 'c.yaml', world))!r}), "
        f"Path({str(tmp_path / 'store')!r})), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "GPU: not looked for, torch is not installed" in done.stdout


@pytest.mark.parametrize(
    ("module", "extra"), [("torch", "train"), ("onnx.helper", "export"), ("sklearn", "studies")]
)
def test_a_command_says_which_extra_brings_what_it_lacks(module, extra):
    error = ModuleNotFoundError(f"No module named '{module}'", name=module)
    code, sentence = explained(error, ["train", "tpm"])
    assert code == 1
    assert sentence.endswith(f"pip install 'ecdctr[{extra}]'")


def test_a_missing_module_of_nobodys_is_an_error_that_nobody_foresaw():
    error = ModuleNotFoundError("No module named 'ecdctr.nothing'", name="ecdctr.nothing")
    assert explained(error, ["train", "tpm"])[0] == UNFORESEEN


def test_every_package_that_is_imported_is_declared():
    declared = {
        canonicalize_name(Requirement(text).name)
        for group in [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
        for text in group
    }
    missing, distributions = {}, importlib.metadata.packages_distributions()
    rooms = ("ecdctr", "dags", "plugins", "tests", "benchmarks")
    for path in sorted(path for room in rooms for path in (REPOSITORY / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else []
            )
            for module in {name.split(".")[0] for name in modules}:
                elsewhere = module in sys.stdlib_module_names | {*rooms, *NOT_FROM_PYPI_BY_NAME}
                # what is not installed here is taken to be called as its module is
                homes = {canonicalize_name(home) for home in distributions.get(module, [module])}
                if not elsewhere and not homes & declared:
                    missing[module] = str(path)
    assert not missing


TEXT = {"read_text": 0, "write_text": 1, "fdopen": 1}  # by how many arguments before the encoding


def _without_encoding(call: ast.Call) -> bool:
    """Tell whether a call reads or writes text in whatever encoding the machine has."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if name == "open":
        mode = call.args[0] if call.args else ast.Constant("r")
        return isinstance(mode, ast.Constant) and mode.value in ("r", "w", "a", "x")
    return name in TEXT and len(call.args) <= TEXT[name]


def test_text_is_read_and_written_in_one_encoding_on_every_machine():
    """In Latin-1 the code itself would have another digest, and a page would name no encoding."""
    places = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for path in sorted((REPOSITORY / "ecdctr").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and _without_encoding(node)
    ]
    assert not places


def test_the_version_stands_in_one_place():
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT
    assert importlib.metadata.version("ecdctr") == ecdctr.__version__


def test_scoring_loads_nothing_of_the_configuration():
    code = "import sys; import ecdctr.serving.scorer; print({'pydantic', 'yaml'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", ecdctr.__all__)
def test_the_public_names_are_there(name):
    assert callable(getattr(ecdctr, name))
    assert name in dir(ecdctr)


def test_the_page_of_the_public_names_runs_as_written(world, tmp_path, monkeypatch, capsys):
    raw = yaml.safe_load((REPOSITORY / "configs" / "tiny.yaml").read_text())
    raw["data"] |= {"root": str(world), "prepared": str(tmp_path / "prepared")}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)
    page = (REPOSITORY / "docs" / "api.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code
    exec(compile(code[1], "docs/api.md", "exec"), {})  # noqa: S102  # the page's own code
    *versions, gauc = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in versions] == ["trained"] * 3
    assert 0 < float(gauc) < 1
