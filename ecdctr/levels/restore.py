"""A stored version as a network that is ready to score."""

from __future__ import annotations

from torch import nn

from ecdctr.config import Config
from ecdctr.examples.batches import Inputs
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.models import checkpoint
from ecdctr.models.network import CtrNet
from ecdctr.models.snapshots import EntitySnapshots
from ecdctr.models.tpm import TpmNet
from ecdctr.models.transfer import load_dense
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store


def load_network(store: Store, ref: Ref) -> tuple[nn.Module, Inputs, dict[str, Vocabulary]]:
    """A version's network from its own files, and from its CPM's where it was trained with one as a helper.

    The shape comes from the manifest, not from today's configuration.
    """
    store.check(ref)
    manifest = store.manifest(ref)
    known = {key: value for key, value in manifest.config.items() if key in Config.model_fields}
    config = Config.model_validate({"seed": manifest.seed, **known})
    saved = checkpoint.load(store.path(ref))
    inputs = Inputs.of(config, manifest.level)  # type: ignore[arg-type]
    rows = {name: saved.vocabularies[name].rows for name in inputs.vocabularies}
    model: nn.Module
    if manifest.level == "tpm":
        model = TpmNet(config, inputs, rows, config.seed)
    else:
        helper: nn.Module | None = None
        if manifest.level == "actr" and config.actr.source != "none":
            helper = load_network(store, Ref.parse(manifest.parents["cpm"][0]))[0]
        assert helper is None or isinstance(helper, CtrNet)  # noqa: S101
        merged = {side: EntitySnapshots.of_merged(table) for side, table in saved.merged.items()}
        model = CtrNet(config, inputs, rows, config.seed, merged or None, helper)
    load_dense(
        model,
        {name: value for name, value in saved.dense.items() if not name.startswith("snapshots.")},
    )
    for name, table in saved.tables.items():
        model.embeddings.load_prefix(name, table)
    return model.eval(), inputs, saved.vocabularies
