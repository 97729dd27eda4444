"""KuaiRand (Gao et al., CIKM 2022).

The official files of its Pure, 1K and 27K editions as a mapping.
"""

from __future__ import annotations

from pathlib import Path

from ecdctr.errors import ConfigError
from ecdctr.impressions.mapping import Join, Mapping
from ecdctr.impressions.tables import Table

EDITIONS = ("pure", "1k", "27k")
USER_FEATURES = (
    "user_active_degree",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    "onehot_feat0",
    "onehot_feat1",
    "onehot_feat2",
)


def kuairand_mapping(source: Path, edition: str, with_random: bool = False) -> Mapping:
    """Return the mapping for a folder with an edition's files.

    Natural content is what video_type calls NORMAL, ads are AD, anything else is left out.
    `with_random` adds the impressions of randomly exposed videos. Raises ConfigError for an unknown
    edition or a missing file.
    """
    if edition not in EDITIONS:
        raise ConfigError(
            f"Unknown edition '{edition}' of KuaiRand; expected one of {', '.join(EDITIONS)}."
        )
    logs = [f"log_standard_*_{edition}*.csv"]  # 27K splits its logs: …_27k_part1.csv
    if with_random:
        logs.append(f"log_random_*_{edition}*.csv")
    needed = [*logs, f"user_features_{edition}.csv", f"video_features_basic_{edition}*.csv"]
    for pattern in needed:
        if not list(source.glob(pattern)):
            raise ConfigError(
                f"No '{pattern}' in {source}. "
                f"KuaiRand-{edition.upper() if edition != 'pure' else 'Pure'} is Zenodo record "
                "10439422; unpack it and name the folder that holds its CSV files."
            )
    return Mapping(
        log=Table(files=tuple(logs), header=True),
        joins={
            "users": Join(files=(needed[-2],), key="user_id", header=True),
            "videos": Join(files=(needed[-1],), key="video_id", header=True),
        },
        user_id="log.user_id",
        item_id="log.video_id",
        ts="epoch_ms(log.time_ms)",
        click="log.is_click = 1",
        domain="CASE videos.video_type WHEN 'NORMAL' THEN 'natural' WHEN 'AD' THEN 'ads' END",
        features={
            **{name: f"users.{name}::VARCHAR" for name in USER_FEATURES},
            "author_id": "videos.author_id::BIGINT",
            "upload_type": "videos.upload_type::VARCHAR",
            "music_type": "videos.music_type::VARCHAR",
            "tag": "list_filter(string_split(videos.tag::VARCHAR, ','), lambda x: x <> '')",
            "duration_s": "log.duration_ms / 1000.0",
            "tab": "log.tab::VARCHAR",
        },
    )
