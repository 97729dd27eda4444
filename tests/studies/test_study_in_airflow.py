"""The plan of ecdctr_forgetting.

What is refused, what is left to do, what is collected when a variant is not whole.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from airflow.sdk.exceptions import ParamValidationError

from ecdctr.airflow.dates import load_settings
from ecdctr.airflow.params import ablation_params, forgetting_params
from ecdctr.cli import net
from ecdctr.cli.base import app
from ecdctr.config import digest
from ecdctr.errors import ConfigError, EcdctrError
from ecdctr.levels.actr import train_actr
from ecdctr.levels.request import Request
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from ecdctr.studies.forgetting.basis import RowBasis, row_basis_now
from ecdctr.studies.forgetting.form import Planned, StudyForm
from ecdctr.studies.forgetting.study import collect
from tests.conftest import DATE
from tests.make import manifest, write_config

DAYS = [DATE + dt.timedelta(days=k) for k in range(3)]


@pytest.fixture(autouse=True)
def settings(world: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECDCTR_CONFIG", str(write_config(tmp_path / "config.yaml", world)))
    monkeypatch.setenv("ECDCTR_STORE", str(store.root))


def form(**values: Any) -> dict[str, Any]:
    filled = {
        "study": "s",
        "from_date": str(DAYS[0]),
        "to_date": str(DAYS[-1]),
        "variants": ["no_tpm", "continue_no_tpm"],
        "seeds": "1,2",
        "hold_out_every": 2,
    }
    return filled | values


def trained(store: Store, model: Planned) -> Ref:
    """Return a version as the planned run would publish it."""
    made = manifest(model.date, f"{model}", model.experiment, model.level)
    with store.staging() as folder:
        (folder / "a").write_text("weights")
        digests = {"config_digest": digest(model.config.relevant(model.level))}
        return store.publish(folder, made.model_copy(update=digests)).ref


def basis(variant: str = "default") -> RowBasis:
    """Return what rows on the study's held-out ads rest on, as they lie there now."""
    return row_basis_now(load_settings().config.with_variant(variant), DAYS, 2)


def rows(store: Store, ref: Ref, seed: int) -> None:
    rng = np.random.default_rng(seed)
    day, user = np.repeat(DAYS, 10), np.tile(np.arange(10), 3)
    content = pa.BufferOutputStream()
    pq.write_table(
        pa.table({"day": day, "user": user, "impressions": np.full(30, 3), "auc": rng.random(30)}),
        content,
    )
    store.save_matrix_row(ref, basis().name, content.getvalue().to_pybytes())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"to_date": str(DAYS[1])}, "three days or more"),
        ({"to_date": "2026-01-24"}, "No ads of 2026-01-25"),
        ({"from_date": "2025-12-30"}, "No ads of 2025-12-30, 2025-12-31"),
        ({"variants": ["default"]}, r"needs a TPM snapshot of 2026-01-17 or before"),
        ({"study": "s" * 55}, "too long a name"),
    ],
)
def test_a_study_that_cannot_be_done_is_refused_before_anything_runs(values, words):
    with pytest.raises(ConfigError, match=words):
        StudyForm.of(form(**values))


def test_a_chain_needs_one_cpm_per_seed_and_a_daily_restart_one_per_day():
    planned = StudyForm.of(form()).models("cpm")
    assert [(m.variant, m.seed) for m in planned if m.date == DAYS[0]] == [
        ("no_tpm", 1), ("no_tpm", 2), ("continue_no_tpm", 1), ("continue_no_tpm", 2),
    ]  # fmt: skip
    assert {m.variant for m in planned if m.date > DAYS[0]} == {"no_tpm"}


def test_a_row_with_days_at_its_end_trains_its_cpm_so_often_and_its_actr_daily(store):
    """The command knew `weekly@7`, Airflow's form refused it."""
    asked = StudyForm.of(form(variants=["no_tpm@2", "no_tpm"], seeds="1"))
    assert [m.date for m in asked.models("cpm") if m.row == "no_tpm@2"] == [DAYS[0], DAYS[2]]
    daily = [m for m in asked.models("actr") if m.row == "no_tpm@2"]
    assert [m.date for m in daily] == DAYS
    assert {m.experiment for m in daily} == {"s.no_tpm-every-2.s1"}
    assert {m.run(2, DAYS[0])["conf"]["variant"] for m in daily} == {"no_tpm"}
    for model in asked.models("cpm"):
        trained(store, model)
    resolved = store.require("cpm", DAYS[1], "s.no_tpm-every-2.s1")
    assert (resolved.experiment, resolved.date) == ("s.no_tpm-every-2.s1", DAYS[0])
    for model in asked.models("actr"):
        rows(store, trained(store, model), model.date.day)
    assert asked.missing_cpm() == asked.missing_days() == []


@pytest.mark.parametrize(
    "row", ["no_tpm@2", "default@30", "full", "no_tpm@0", "no_tpm@", "other@7"]
)
def test_the_forms_of_both_studies_take_the_rows_that_the_commands_take(row):
    config = load_settings().config
    fields = [forgetting_params(config)["variants"], ablation_params(config)["rows"]]
    choices = [{"no_tpm@2", "default@30"}, {"no_tpm@2", "full"}]
    for field, fine in zip(fields, choices, strict=True):
        with contextlib.nullcontext() if row in fine else pytest.raises(ParamValidationError):
            field.resolve([row])


def test_runs_carry_their_day_seed_and_chain_and_come_oldest_day_first():
    asked = StudyForm.of(form())
    models = asked.models("actr")
    assert [model.date for model in models] == sorted(model.date for model in models)
    chained = next(
        model for model in models if model.variant == "continue_no_tpm" and model.date == DAYS[1]
    )
    run = chained.run(2, DAYS[0])
    assert run["trigger_run_id"] == f"s.continue_no_tpm.s1__{DAYS[1]}"
    assert run["conf"] == {
        "data_date": str(DAYS[1]),
        "experiment": "s.continue_no_tpm.s1",
        "variant": "continue_no_tpm",
        "seed": 1,
        "hold_out_every": 2,
        "chain_start": str(DAYS[0]),
    }


def test_what_is_in_the_store_is_not_done_again_unless_the_configuration_changed(store):
    asked = StudyForm.of(form(variants=["no_tpm"], seeds="1"))
    days = asked.models("actr")
    rows(store, trained(store, days[0]), 1)  # trained, and its row is there
    trained(store, days[1])  # trained, but not evaluated
    assert [model.date for model in asked.missing_days()] == DAYS[1:]
    other = StudyForm.of(form(variants=["no_tpm"], seeds="1", hold_out_every=3))
    assert [model.date for model in other.missing_days()] == DAYS


def test_a_variant_that_is_not_whole_is_reported_and_the_others_are_collected(store):
    asked = StudyForm.of(form(seeds="1"))
    for model in asked.models("actr"):
        if model.variant == "no_tpm" or model.date != DAYS[1]:
            rows(store, trained(store, model), model.date.day)
    experiments = {name: [f"s.{name}.s1"] for name in asked.rows}
    bases = {name: basis(name) for name in asked.rows}
    whole, failed = collect(store, experiments, bases)
    assert list(whole) == ["no_tpm"]
    assert whole["no_tpm"].r.shape == (1, 3, 3)
    assert failed == {
        "continue_no_tpm": "no matrix row on the ads as they are now for s.continue_no_tpm.s1 "
        f"of {DAYS[1]}; see the runs of these days, or start the study again"
    }
    with pytest.raises(EcdctrError, match="No variant is complete"):
        collect(store, {"continue_no_tpm": ["s.continue_no_tpm.s1"]}, bases)


def test_variants_that_read_other_examples_are_judged_on_them_and_compared(store, tmp_path):
    path = tmp_path / "config.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["variants"]["short"] = raw["variants"]["ads_only"] | {"data": {"history_length": 3}}
    path.write_text(yaml.safe_dump(raw))
    assert basis("short") != basis("ads_only")
    places = ["--config", str(path), "--store", str(store.root)]
    span = ["--from", str(DAYS[0]), "--to", str(DAYS[-1]), "--hold-out-every", "2"]
    asked = StudyForm.of(form(variants=["ads_only", "short"], seeds="1"))
    for model in asked.models("actr"):
        train_actr(Request(model.config, store, model.date, model.experiment, model.variant))
        one = ["--experiment", model.experiment, "--date", str(model.date)]
        assert net.run(app, [*places, "matrix", "row", *one, *span]) == 0
    assert asked.missing_days() == []
    reported = ["--variants", "ads_only,short", "--seeds", "1", "--name", "s"]
    assert net.run(app, [*places, "matrix", "report", *reported, *span]) == 0
    assert "short" in (store.root / ".studies" / "s" / "study.md").read_text()
