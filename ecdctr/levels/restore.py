"""A stored version as a network that is ready to score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError
from torch import nn

from ecdctr.config import Config
from ecdctr.errors import StoreError, first_problem
from ecdctr.examples.batches import Inputs
from ecdctr.levels.parents import load_snapshots
from ecdctr.models import checkpoint
from ecdctr.models.embeddings import FieldEmbeddings, carry
from ecdctr.models.network import CtrNet
from ecdctr.models.snapshots import EntitySnapshots
from ecdctr.models.source import FrozenSource
from ecdctr.models.tpm import TpmNet
from ecdctr.models.transfer import load_dense
from ecdctr.store.manifest import Manifest, Ref

if TYPE_CHECKING:
    from ecdctr.examples.vocabulary import Vocabulary
    from ecdctr.levels.request import Request, SnapshotSets, Vocabularies
    from ecdctr.store.store import Store


def load_network(store: Store, ref: Ref) -> tuple[nn.Module, Inputs, dict[str, Vocabulary]]:
    """Read a version's network from its own files, and from its CPM's where that one teaches it.

    The shape comes from the manifest, not from today's configuration. Raises StoreError for damaged
    files.
    """
    store.check(ref)
    manifest = store.manifest(ref)
    config = trained_config(manifest)
    saved = checkpoint.load(store.path(ref))
    inputs = Inputs.of(config, manifest.level)
    rows = {name: saved.vocabularies[name].rows for name in inputs.vocabularies}
    model: nn.Module
    if manifest.level == "tpm":
        model = TpmNet(config, inputs, rows, config.seed)
    else:
        teacher = None
        if manifest.level == "actr" and config.actr.source != "none":
            network, of_parent = load_ctr_network(store, Ref.parse(manifest.parents["cpm"][0]))
            teacher = _teaching(network, of_parent, saved.vocabularies)
        merged = {side: EntitySnapshots.of_merged(table) for side, table in saved.merged.items()}
        model = CtrNet(config, inputs, rows, config.seed, merged or None, teacher)
    without_snapshots = {
        name: value for name, value in saved.dense.items() if not name.startswith("snapshots.")
    }
    load_dense(model, without_snapshots)
    embeddings = FieldEmbeddings.of(model)
    for name, table in saved.tables.items():
        carry(table, np.arange(len(table), dtype=np.int32), embeddings.field(name))
    return model.eval(), inputs, saved.vocabularies


def load_teacher(
    request: Request, ref: Ref, snapshots: SnapshotSets, vocabularies: Vocabularies
) -> FrozenSource:
    """Read the CPM of KEEP and CTNet, for a child with these vocabularies.

    It is asked about an impression with the snapshots of the impression's day. Raises StoreError
    for a TPM, or damaged files.
    """
    network, of_teacher = load_ctr_network(request.store, ref)
    entities = load_snapshots(request, snapshots, of_teacher)
    if network.snapshots and entities:
        network.snapshots = nn.ModuleDict(entities)
        load_dense(network, checkpoint.load(request.store.path(ref)).dense)
        network.merge_snapshots()
    return _teaching(network, of_teacher, vocabularies)


def load_ctr_network(store: Store, ref: Ref) -> tuple[CtrNet, Vocabularies]:
    """Read a CPM or an A-CTR and its vocabularies; raises StoreError for a TPM."""
    network, _, vocabularies = load_network(store, ref)
    if not isinstance(network, CtrNet):
        raise StoreError(f"{ref}: expected a CPM or an A-CTR, found a {ref.level}.")
    return network, vocabularies


def _teaching(network: CtrNet, theirs: Vocabularies, vocabularies: Vocabularies) -> FrozenSource:
    """Let a network with its vocabularies teach a child with these."""
    rows = {
        name: vocabulary.rows_in(theirs[name])
        for name, vocabulary in vocabularies.items()
        if name in theirs
    }
    return FrozenSource(network, rows)


def trained_config(manifest: Manifest) -> Config:
    """Build the configuration that a version was trained with, as far as it decides the result.

    Raises StoreError for a manifest that holds none.
    """
    settings = {key: value for key, value in manifest.config.items() if key in Config.model_fields}
    of_level = settings.get(manifest.level, {})  # its vocabularies are there, however made
    settings[manifest.level] = {k: v for k, v in of_level.items() if k != "vocabulary"}
    try:
        return Config.model_validate({"seed": manifest.seed, **settings})
    except ValidationError as error:
        raise StoreError(
            f"The manifest of {manifest.ref} cannot be read: of its settings, "
            f"{first_problem(error)}. Train it again: ecdctr train {manifest.level} --date "
            f"{manifest.data_date} --experiment {manifest.experiment} --force"
        ) from None
