"""What a service tells Prometheus."""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
DIFFERENCES = (1e-6, 1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass
class Metrics:
    """Prometheus series of one service."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        registry = self.registry
        self.requests = Counter(
            "ecdctr_requests", "Requests to /score", ["status"], registry=registry
        )
        self.candidates = Counter("ecdctr_candidates", "Candidates scored", registry=registry)
        self.seconds = Histogram(
            "ecdctr_request_seconds", "Of /score, waiting too", buckets=SECONDS, registry=registry
        )
        self.together = Histogram(
            "ecdctr_batch_requests",
            "Requests per pass",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.version = Gauge(
            "ecdctr_version_info",
            "1 for the versions in use",
            ["role", "version"],
            registry=registry,
        )
        self.remembers_until = Gauge(
            "ecdctr_memory_until_timestamp_seconds",
            "End of the days that the memory of users in the version covers; export anew with each "
            "weekly TPM",
            ["role"],
            registry=registry,
        )
        self.swaps = Counter("ecdctr_swaps", "Versions taken over", ["role"], registry=registry)
        self.failures = Counter(
            "ecdctr_swap_failures", "Versions that would not load", ["role"], registry=registry
        )
        self.difference = Histogram(
            "ecdctr_shadow_difference",
            "|shadow - serving| of a probability",
            buckets=DIFFERENCES,
            registry=registry,
        )
        self.unshadowed = Counter(
            "ecdctr_shadow_skipped", "Requests the shadow had no time for", registry=registry
        )
