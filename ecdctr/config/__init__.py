"""The configuration.

`config` is the whole, `loading` reads it, `terms` the shared words, every other file a section.
"""

from ecdctr.config.airflow import AirflowSettings
from ecdctr.config.config import Config, digest, merged
from ecdctr.config.data import Data, Feature, Quality
from ecdctr.config.evaluation import Evaluation, Tuning
from ecdctr.config.kubernetes import Kubernetes, SecretKey, SparkPods, Toleration
from ecdctr.config.loading import load_config, refuse_shared
from ecdctr.config.memory import Memory
from ecdctr.config.network import Network, Snapshots
from ecdctr.config.section import Section
from ecdctr.config.simulation import Simulation
from ecdctr.config.terms import (
    DEFAULT,
    LEVEL_DOMAIN,
    LEVELS,
    PRODUCTION,
    RESERVED_COLUMNS,
    Level,
)
from ecdctr.config.training import Actr, Admission, Cpm, Tpm, Training
from ecdctr.config.validation import validated
from ecdctr.config.visits import Visits
from ecdctr.domains import DOMAINS, Domain

__all__ = [
    "DEFAULT",
    "DOMAINS",
    "LEVELS",
    "LEVEL_DOMAIN",
    "PRODUCTION",
    "RESERVED_COLUMNS",
    "Actr",
    "Admission",
    "AirflowSettings",
    "Config",
    "Cpm",
    "Data",
    "Domain",
    "Evaluation",
    "Feature",
    "Kubernetes",
    "Level",
    "Memory",
    "Network",
    "Quality",
    "SecretKey",
    "Section",
    "Simulation",
    "Snapshots",
    "SparkPods",
    "Toleration",
    "Tpm",
    "Training",
    "Tuning",
    "Visits",
    "digest",
    "load_config",
    "merged",
    "refuse_shared",
    "validated",
]
