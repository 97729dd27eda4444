"""The artifact store: versions, aliases and results under one root, a folder or a URL."""

from __future__ import annotations

from ecdctr.store.lineage import Lineage
from ecdctr.store.publishing import Publishing
from ecdctr.store.resolving import Resolving
from ecdctr.store.results import Results


class Store(Publishing, Resolving, Results, Lineage):
    """Versions under a root, which is a folder or a URL.

    They lie at <root>/<experiment>/<level>/<data date>/<version>/.
    """
