"""What comes from outside cannot leave the store, run as code, or crash a reader."""

from __future__ import annotations

import ast
import datetime as dt
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.airflow.dates import data_date
from ecdctr.cli.base import parse_date, parse_number, parse_seeds
from ecdctr.config import load_config
from ecdctr.errors import ConfigError, EcdctrError, StoreError
from ecdctr.examples.prepare import prepare
from ecdctr.impressions import contract
from ecdctr.impressions.contract import validate_day
from ecdctr.impressions.layout import day_folder
from ecdctr.impressions.local import LocalImpressions
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.models import checkpoint
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from tests.conftest import DATE, REPOSITORY
from tests.make import publish

HOSTILE = st.one_of(
    st.text(max_size=80),
    st.sampled_from(
        [
            "../x",
            "..",
            ".",
            "/etc",
            "a/../../b",
            "a\0b",
            "$(id)",
            "`id`",
            "; rm -rf /",
            "' OR 1=1 --",
            "x\ny",
            "{{ 7*7 }}",
        ]
    ),
)
RELAXED = settings(max_examples=150)


@RELAXED
@given(HOSTILE)
def test_no_name_leads_out_of_the_store(tmp_path, name):
    (tmp_path / "outside" / "cpm" / "2026-01-01" / "v0001").mkdir(parents=True, exist_ok=True)
    store = Store(tmp_path / "store")
    actions = [
        lambda: publish(store, DATE, "f", name),
        lambda: store.create_experiment(name),
        lambda: store.resolve("cpm", DATE, name),
        lambda: store.versions("production", name),
        lambda: store.alias_history("serving", name),
        lambda: store.study(name).mkdir(parents=True, exist_ok=True),
        lambda: store.manifest(Ref(name, "cpm", DATE, "v0001")),
    ]
    for action in actions:
        try:
            action()
        except StoreError:
            continue
    assert sorted(path.name for path in tmp_path.iterdir()) in (["outside"], ["outside", "store"])


@RELAXED
@given(HOSTILE)
def test_what_a_command_line_or_a_form_says_is_a_value_or_a_refusal(text):
    for parse in (
        parse_date,
        parse_seeds,
        parse_number,
        Ref.parse,
    ):
        with suppress(EcdctrError, typer.BadParameter):
            assert not isinstance(parse(text), str)
    with suppress(ValueError, ConfigError):
        assert dt.date.fromisoformat(data_date({"data_date": text or "x", "experiment": "x"}, None))


@pytest.mark.parametrize(
    "folder", ["it's here", 'say "x"', "a; DROP TABLE day; --", "spaces and ünicode", "$HOME"]
)
def test_a_path_is_data_in_every_query(config, tmp_path, folder):
    root = tmp_path / folder / "data"
    for back in range(3):
        date = DATE - dt.timedelta(days=back)
        for domain in ("natural", "ads"):
            shutil.copytree(
                day_folder(config.data.root, domain, date), day_folder(root, domain, date)
            )
    data = config.data.model_copy(
        update={"root": root, "prepared": tmp_path / folder / "prepared", "lookback_days": 2}
    )
    made = prepare(config.model_copy(update={"data": data}), "ads", [DATE])
    assert pq.read_metadata(made[0].path).num_rows == 300


@pytest.mark.parametrize(
    "text",
    [
        "data: {duckdb_memory: \"1GB'; ATTACH 'x' --\"}",
        "features: [{name: 'x\"; DROP', side: user, kind: categorical}]",
        "features: [{name: user_id, side: user, kind: categorical}]",
        "airflow: {kubernetes: {namespace: 'a; b'}}",
        "airflow: {kubernetes: {cpu: '$(id)'}}",
        "!!python/object/apply:os.system ['id']",
    ],
)
def test_a_hostile_configuration_is_refused_when_it_is_loaded(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_config(path)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return a few bytes changed, a part cut out, or garbage."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return content[: rng.randrange(len(content))]
    if kind == 2:
        start = rng.randrange(len(content))
        return content[:start] + content[start + rng.randint(1, 50) :]
    changed = bytearray(content)
    for _ in range(rng.randint(1, 20)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize(
    "file", ["embeddings.safetensors", "dense.safetensors", "vocabulary/user_id.parquet"]
)
def test_crafted_files_of_a_version_are_read_whole_or_refused(config, tmp_path, file):
    """Straight from the files, past the hashes that guard them in a store."""
    store = Store(tmp_path / "store")
    ref = train_tpm(Request(config, store, DATE)).manifest.ref
    path = store.path(ref) / file
    content, rng = path.read_bytes(), random.Random(file)
    refused = []
    for _ in range(60):
        path.write_bytes(mutated(content, rng))
        with pytest.raises(StoreError, match=r"differs|missing"):
            store.check(ref)
        try:
            checkpoint.load(store.path(ref))
        except StoreError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all("cannot be read" in text for text in refused)


def test_crafted_manifests_are_refused(store):
    ref = publish(store, DATE, "f").ref
    path = store.path(ref) / "manifest.json"
    content, rng = path.read_bytes(), random.Random(7)
    for _ in range(200):
        path.write_bytes(mutated(content, rng))
        if path.read_bytes() == content:
            continue
        assert store.verify() != []
        with suppress(StoreError):
            store.manifest(ref)
    path.write_text(content.decode().replace('"a":', '"../../../../a":'))
    with pytest.raises(StoreError, match="outside the version's folder"):
        store.manifest(ref)
    path.write_text(content.decode().replace('"production"', '"another"'))
    with pytest.raises(StoreError, match="it says that it is another/"):
        store.manifest(ref)


def test_crafted_impressions_are_a_violation_or_valid(config, tmp_path):
    folder = day_folder(tmp_path, "ads", DATE)
    shutil.copytree(day_folder(config.data.root, "ads", DATE), folder)
    spoilt = config.model_copy(update={"data": config.data.model_copy(update={"root": tmp_path})})
    path = LocalImpressions(tmp_path).files("ads", DATE)[0]
    content, rng = path.read_bytes(), random.Random(3)
    violated = 0
    for _ in range(80):
        path.write_bytes(mutated(content, rng))
        with contract.connect(spoilt) as connection:
            violated += bool(validate_day(connection, spoilt, "ads", DATE).violations)
    assert violated > 40


def sources() -> list[Path]:
    return [
        path
        for folder in ("ecdctr", "dags", "plugins")
        for path in (REPOSITORY / folder).rglob("*.py")
    ]


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell():
    banned_modules = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    banned_calls = {
        "eval",
        "exec",
        "os.system",
        "os.popen",
        "torch.load",
        "yaml.load",
        "pd.read_pickle",
    }
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not banned_modules & {name.split(".")[0] for name in names}, where
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in banned_calls, where
                assert not any(
                    k.arg == "allow_pickle" and ast.unparse(k.value) != "False"
                    for k in node.keywords
                ), where
                assert not any(
                    k.arg == "shell" and ast.unparse(k.value) != "False" for k in node.keywords
                ), where


def test_a_store_holds_no_pickle(config, tmp_path):
    store = Store(tmp_path / "store")
    train_tpm(Request(config, store, DATE))
    files = [path for path in store.root.rglob("*") if path.is_file()]
    locks = {path for path in files if path.parent.name == ".locks"}
    assert not any(path.stat().st_size for path in locks)
    assert {path.suffix for path in set(files) - locks} <= {
        ".safetensors",
        ".parquet",
        ".json",
        ".sha256",
        "",
    }
    for path in store.root.rglob("*.*"):
        if path.is_file():
            assert not path.read_bytes().startswith(b"\x80\x04"), "a pickle"
