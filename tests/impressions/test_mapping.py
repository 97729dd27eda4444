"""Logs of other shapes: KuaiRand's official format, a MovieLens-like log by a mapping.

And what is refused.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from ecdctr.config import load_config
from ecdctr.errors import ConfigError, ContractError
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.contract import validate
from ecdctr.impressions.importer import import_log
from ecdctr.impressions.kuairand import USER_FEATURES, kuairand_mapping
from ecdctr.impressions.mapping import Mapping, load_mapping
from tests.conftest import REPOSITORY

LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,"
    "is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,"
    "is_profile_enter,is_rand,tab"
)
OTHER_USER_COLUMNS = (
    "is_lowactive_period",
    "follow_user_num",
    "fans_user_num",
    "friend_user_num",
    "register_days",
)
START = dt.datetime(2022, 4, 8, tzinfo=dt.UTC)
REAL = Path(
    os.environ.get("ECDCTR_KUAIRAND", REPOSITORY.parent / "shared" / "data" / "kuairand_pure")
)


def write_log(
    path: Path, first_day: int, days: int, users: list[int], videos: list[int], rows: int = 400
) -> None:
    """A log of the official columns."""
    rng = np.random.default_rng(first_day)
    lines = [LOG]
    for _ in range(rows):
        seconds = (first_day + rng.uniform(0, days)) * 86400
        time = int((START.timestamp() + seconds) * 1000)
        user, video, click = rng.choice(users), rng.choice(videos), rng.integers(2)
        length, tab = rng.integers(1, 60000), rng.integers(15)
        lines.append(
            f"{user},{video},20220408,400,{time},{click},0,0,0,0,0,0,1000,{length},0,0,0,0,{tab}"
        )
    path.write_text("\n".join(lines) + "\n")


def made_up_features(folder: Path, edition: str) -> None:
    """Feature files of the official columns: 40 users; 30 NORMAL, 20 AD, 1 UNKNOWN videos."""
    columns = [*USER_FEATURES, *OTHER_USER_COLUMNS]
    users = [f"user_id,{','.join(columns)}"]
    values = ["full_active", *["1"] * (len(columns) - 1)]
    users += [f"{user},{','.join(values)}" for user in range(40)]
    (folder / f"user_features_{edition}.csv").write_text("\n".join(users) + "\n")
    header = "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration"
    videos = [header + ",server_width,server_height,music_id,music_type,tag"]
    for video in range(51):
        kind = "NORMAL" if video < 30 else "AD" if video < 50 else "UNKNOWN"
        tag = '"3,5"' if video % 2 else ""
        videos.append(
            f"{video},{video // 3},{kind},2022-04-01,Web,0.0,9000.0,720.0,1280.0,77,9.0,{tag}"
        )
    (folder / f"video_features_basic_{edition}.csv").write_text("\n".join(videos) + "\n")


@pytest.mark.parametrize(
    ("edition", "logs"),
    [
        ("pure", ["log_standard_4_08_to_4_21_pure.csv", "log_standard_4_22_to_5_08_pure.csv"]),
        (
            "27k",
            ["log_standard_4_08_to_4_21_27k_part1.csv", "log_standard_4_08_to_4_21_27k_part2.csv"],
        ),
    ],
)
def test_kuairand_becomes_the_contract(tmp_path, edition, logs):
    source, root = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    made_up_features(source, edition)
    for i, name in enumerate(logs):
        write_log(source / name, 2 * i, 2, list(range(40)), list(range(51)))
    double = (source / logs[0]).read_text().splitlines()[1]
    with (source / logs[0]).open("a") as file:
        file.write(double + "\n")
    done = import_log(kuairand_mapping(source, edition), source, root)
    assert done.read == 801 == done.natural + done.ads + done.left_out + done.duplicates
    assert done.duplicates + done.left_out >= 1
    assert (done.first, done.last) == ("2022-04-08", "2022-04-11")
    base = load_config(REPOSITORY / "configs" / "kuairand.yaml")
    data = base.data.model_copy(update={"root": root, "prepared": tmp_path / "prepared"})
    config = base.model_copy(update={"data": data})
    reports = validate(config, ["natural", "ads"], None)
    assert len(reports) == 8
    assert [violation for report in reports for violation in report.violations] == []
    day = prepare(config, "ads", [dt.date(2022, 4, 11)])[0]
    examples = pq.read_table(day.path, partitioning=None).to_pylist()
    assert {tuple(row["tag"] or ()) for row in examples} == {("3", "5"), ()}
    assert all(30 <= row["item_id"] < 50 for row in examples)


@pytest.mark.skipif(not REAL.exists(), reason="the real feature files are not part of the project")
def test_kuairand_with_its_real_feature_files(tmp_path):
    source, root = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    for name in ("user_features_pure.csv", "video_features_basic_pure.csv"):
        (source / name).symlink_to(REAL / name)
    kinds = (
        duckdb.read_csv(str(REAL / "video_features_basic_pure.csv"))
        .project("video_id, video_type")
        .fetchall()
    )
    ads = [video for video, kind in kinds if kind == "AD"]
    assert len(ads) == 76
    videos = [*ads, *[video for video, kind in kinds if kind != "AD"][:300]]
    write_log(
        source / "log_standard_4_08_to_4_21_pure.csv",
        0,
        3,
        list(range(0, 27000, 30)),
        videos,
        rows=3000,
    )
    done = import_log(kuairand_mapping(source, "pure"), source, root)
    assert done.ads > 300
    config = load_config(REPOSITORY / "configs" / "kuairand.yaml")
    config = config.model_copy(update={"data": config.data.model_copy(update={"root": root})})
    assert not [
        v for report in validate(config, ["natural", "ads"], None) for v in report.violations
    ]


RATINGS = """userId,movieId,rating,timestamp
1,10,4.5,1640995200
1,20,2.0,1640995300
2,10,3.5,1641081600
2,30,5.0,1641081700
1,30,1.0,1641081800
2,20,4.0,1641081900
"""
MOVIES = "movieId,title,genres\n10,A,Drama|War\n20,B,Documentary\n30,C,Documentary|War\n"
# The example of the documentation
PAGE = (REPOSITORY / "docs" / "bring-your-own-data.md").read_text()
MAPPING = next(
    text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if text.startswith("log:")
)


def movielens(folder: Path, mapping: str = MAPPING) -> Mapping:
    (folder / "ratings.csv").write_text(RATINGS)
    (folder / "movies.csv").write_text(MOVIES)
    (folder / "mapping.yaml").write_text(mapping)
    return load_mapping(folder / "mapping.yaml")


def test_a_mapping_makes_impressions_of_any_log(tmp_path):
    done = import_log(movielens(tmp_path), tmp_path, tmp_path / "data")
    assert (done.read, done.natural, done.ads, done.left_out, done.duplicates) == (6, 2, 4, 0, 0)
    table = pq.read_table(
        tmp_path / "data" / "domain=ads" / "date=2022-01-02" / "part-0.parquet", partitioning=None
    )
    assert table.column_names == ["user_id", "item_id", "ts", "click", "genres"]
    assert table.column("click").to_pylist() == [1, 0, 1]
    assert str(table.schema.field("ts").type) == "timestamp[us, tz=UTC]"
    assert table.column("genres").to_pylist()[0] == ["Documentary", "War"]


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("user_id: userId", "user_id: person", ConfigError, r"mapping user_id: 'person'.*userId"),
        ("movies.genres, '|'", "movies.kinds, '|'", ConfigError, r"mapping features.genres"),
        (
            "key: movieId",
            "key: film",
            ConfigError,
            r"joins.movies.key: no column 'film' in the log",
        ),
        ("click: rating >= 4", "click: rating >= 9", ContractError, "0 clicks of domain 'natural'"),
        (
            "'Documentary') THEN",
            "'Opera') THEN",
            ContractError,
            "0 impressions and 0 clicks of domain 'ads'",
        ),
        ("files: [ratings.csv]", "files: [lost.csv]", ConfigError, "No file matches 'lost.csv'"),
        ("user_id: userId", "user_id: nullif(userId, 2)", ContractError, "without user or item id"),
        ("features:\n  genres", "features:\n  click", ConfigError, "contract itself"),
        ("click: rating >= 4\n", "\n", ConfigError, "click: expected a value, found none; add it"),
        (
            "files: [ratings.csv]",
            "files: x.csv",
            ConfigError,
            r"log.files: expected a list, like .* \(found 'x.csv'\)",
        ),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_and_leaves_nothing(
    tmp_path, old, new, error, message
):
    assert old in MAPPING
    with pytest.raises(error, match=message):
        import_log(movielens(tmp_path, MAPPING.replace(old, new)), tmp_path, tmp_path / "data")
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").iterdir())


def test_an_import_does_not_touch_impressions_that_are_there(tmp_path):
    mapping = movielens(tmp_path)
    import_log(mapping, tmp_path, tmp_path / "data")
    with pytest.raises(ConfigError, match="empty folder"):
        import_log(mapping, tmp_path, tmp_path / "data")


def test_a_missing_kuairand_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"log_standard_\*_pure"):
        kuairand_mapping(tmp_path, "pure")
    with pytest.raises(ConfigError, match="pure, 1k, 27k"):
        kuairand_mapping(tmp_path, "2k")
