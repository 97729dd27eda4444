"""Many versions on many days.

The rows of a forgetting matrix, reading each day once and scoring all days at once.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecdctr.errors import StoreError, first_line
from ecdctr.evaluation.metrics import user_auc
from ecdctr.examples.batches import encode
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.examples.vocabulary import normalized
from ecdctr.levels.other_inputs import refuse_other_preparation
from ecdctr.levels.restore import load_network
from ecdctr.store.manifest import Ref, variant_option
from ecdctr.studies.forgetting.basis import RowBasis, row_basis

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.config import Config
    from ecdctr.store.manifest import Manifest
    from ecdctr.store.store import Store


class HeldOut(NamedTuple):
    """The held-out ads of several days as one table.

    `group` [rows] numbers each pair of a day and a user.
    """

    basis: RowBasis
    every: int  # of a day's ads each so many-th is held out
    table: pa.Table
    group: NDArray[np.int64]
    day_of_group: NDArray[np.int64]
    user_of_group: pa.Array  # raw ids
    examples: dict[dt.date, str]  # fingerprint of each day's

    @property
    def dates(self) -> tuple[dt.date, ...]:
        """Return the days."""
        return self.basis.dates


def held_out_ads(config: Config, dates: list[dt.date], every: int) -> HeldOut:
    """Return each `every`-th impression of the days' ads.

    What training with actr.hold_out_every does not learn from. Raises StoreError when a day is
    missing.
    """
    days = prepare(config, "ads", dates)
    if len(days) != len(dates):
        raise StoreError(
            f"Expected ads of {len(dates)} days from {dates[0]} to {dates[-1]}, found {len(days)}."
        )
    parts = [Part(day.path, "ads", hold_out_every=every, held_out=True) for day in days]
    tables = [pa.concat_tables(read_chunks([part], None, config.actr.chunk_rows)) for part in parts]
    table = pa.concat_tables(tables)
    encoded = normalized(table.column("user_id")).dictionary_encode()
    users, count = encoded.indices.to_numpy().astype(np.int64), len(encoded.dictionary)
    day = np.repeat(np.arange(len(tables)), [each.num_rows for each in tables])
    pairs, group = np.unique(day * count + users, return_inverse=True)
    basis = row_basis(dates, every, [prepared.fingerprint for prepared in days])
    users_of_group = encoded.dictionary.take(pa.array(pairs % count))
    examples = {prepared.date: prepared.fingerprint for prepared in days}
    return HeldOut(basis, every, table, group, pairs // count, users_of_group, examples)


def matrix_row(config: Config, store: Store, ref: Ref, held_out: HeldOut) -> pa.Table:
    """Return a version's AUC of each user on each day.

    Columns day, user (raw id), impressions, auc. All but auc are the same for every version on the
    same held-out ads. Raises ConfigError for a version that reads what the configuration prepares
    otherwise.
    """
    refuse_other_preparation(config, store, ref)
    model, inputs, vocabularies = load_network(store, ref)
    torch.set_num_threads(config.actr.threads)
    batch = encode(held_out.table, inputs, vocabularies)
    size = config.evaluation.batch_size
    with torch.inference_mode():
        scores = torch.cat(
            [model(batch.take(slice(i, i + size))) for i in range(0, len(batch), size)]
        )
    by_group = user_auc(held_out.group, batch.label.numpy(), scores.numpy())
    day = held_out.day_of_group[by_group.users]
    columns = {
        "day": pa.array([held_out.dates[i] for i in day], pa.date32()),
        "user": held_out.user_of_group.take(pa.array(by_group.users)),
        "impressions": by_group.impressions,
        "auc": by_group.auc,
    }
    return pa.table(columns)


def stored_row(config: Config, store: Store, ref: Ref, held_out: HeldOut) -> pa.Table:
    """Return a version's row on these very ads from the store.

    Made and kept there if it is not there yet, or damaged.
    """
    with contextlib.suppress(StoreError):  # a damaged one is made anew
        if (stored := _read_row(store, ref, held_out.basis)) is not None:
            return stored
    with store.in_use():
        _refuse_learned(store, ref, held_out)
        row = matrix_row(config, store, ref, held_out)
        content = pa.BufferOutputStream()
        pq.write_table(row, content)
        store.drop_matrix_row(ref, held_out.basis.name)  # a damaged one
        store.save_matrix_row(ref, held_out.basis.name, content.getvalue().to_pybytes())
    return row


def _read_row(store: Store, ref: Ref, basis: RowBasis) -> pa.Table | None:
    """Return a stored row, None if there is none; raises StoreError for a damaged one."""
    content = store.matrix_row(ref, basis.name)
    if content is None:
        return None
    try:
        return pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"The matrix row of {ref} ({store.root}, {basis.name}.parquet) cannot be read "
            f"({first_line(error)}); make it again: ecdctr matrix row --date {ref.date} "
            f"--experiment {ref.experiment} --from {basis.dates[0]} --to {basis.dates[-1]}, with "
            "the study's --hold-out-every."
        ) from None


def _refuse_learned(store: Store, ref: Ref, held_out: HeldOut) -> None:
    """Raise StoreError for a version that may have learned ads that are held out.

    It, or one that it goes on from, did not hold them out, or read another delivery of their day:
    an ad is held out by its place in the day. Of one that retention removed nobody knows.
    """
    lineage = store.lineage(ref)
    for one, manifest in lineage.items():
        if one.level != "actr":
            continue
        for parent in map(Ref.parse, manifest.parents.get("actr", [])):
            if parent not in lineage and parent.date >= min(held_out.dates):
                raise StoreError(
                    f"{ref} goes on from {parent}, which retention has removed, so nobody knows "
                    f"whether it learned ads that are held out from {min(held_out.dates)} on; "
                    f"train {ref.experiment} again from its first day, and make the rows before gc "
                    "removes versions."
                )
        _refuse_link(ref, manifest, held_out)


def _refuse_link(ref: Ref, link: Manifest, held_out: HeldOut) -> None:
    """Compare what one version of a chain held out, and read, with what is held out now."""
    read = {
        date: link.data_digests[f"ads/{date}"]
        for date in held_out.dates
        if f"ads/{date}" in link.data_digests
    }
    every = link.config.get("actr", {}).get("hold_out_every", 0)
    again = (
        f"train it again: ecdctr train actr --date {link.data_date} --experiment "
        f"{link.experiment}{variant_option(link.variant)} --seed {link.seed} --hold-out-every "
        f"{held_out.every} --force"
    )
    if read and every != held_out.every:
        raise StoreError(
            f"{link.ref} was trained with actr.hold_out_every {every}, the matrix holds out "
            f"{held_out.every}, so {ref} would be judged on ads that it has learned; {again}, and "
            "what goes on from it after it."
        )
    for date, examples in read.items():
        if examples != held_out.examples[date]:
            raise StoreError(
                f"{link.ref} was trained on other examples of {date} than lie there now (the day, "
                "or one that it looks back on, was delivered again, or what examples hold was "
                f"configured anew), so {ref} may have learned ads that are held out; {again}, and "
                "what goes on from it after it."
            )


def load_rows(store: Store, experiment: str, basis: RowBasis) -> dict[dt.date, pa.Table]:
    """Return an experiment's stored rows on these very ads by model date.

    Of each date's versions the newest counts.

    Dates without one are left out: not trained, not evaluated, or evaluated on what has been
    delivered anew since. Raises StoreError for a damaged row.
    """
    newest = {ref.date: ref for ref in store.versions(experiment, "actr")}
    rows = {date: _read_row(store, newest[date], basis) for date in basis.dates if date in newest}
    return {date: row for date, row in rows.items() if row is not None}
