"""Ordered keys in a file are found as numpy finds them, and few of their pages are read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecdctr.files import mapped
from ecdctr.files.mapped import PAGE, Ordered, write_ordered

EXTREME = st.sampled_from([-(2**63), 2**63 - 1])
KEYS = st.lists(st.integers(-40, 40) | EXTREME, max_size=60).map(sorted)
TEXTS = st.lists(st.text("abÿ𝔸", max_size=3), max_size=60).map(sorted)


@pytest.mark.parametrize("plain", [0, 1000])
@given(data=st.data())
def test_places_are_those_of_numpy_also_where_keys_repeat(plain, data):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(mapped, "PAGE", 8)
        patch.setattr(mapped, "PLAIN", plain)
        given_keys = data.draw(KEYS | TEXTS)
        text = bool(given_keys) and isinstance(given_keys[0], str)
        keys = np.array(given_keys, None if text else np.int64)
        asked = np.array([*given_keys, *(["", "a", "zz"] if text else [-41, 0, 41])], keys.dtype)
        write_ordered(Path(folder), "x", keys)
        ordered = Ordered(Path(folder), "x")
        assert ordered.places(asked).tolist() == np.searchsorted(keys, asked).tolist()


def test_a_look_up_reads_one_page_of_the_keys(tmp_path, monkeypatch):
    keys = np.arange(200 * PAGE, dtype=np.int64) * 3
    write_ordered(tmp_path, "x", keys)
    ordered, read = Ordered(tmp_path, "x"), []

    class Watched:
        def __len__(self):
            return len(keys)

        def __getitem__(self, places):
            read.extend(np.asarray(places).tolist())
            return keys[places]

    monkeypatch.setattr(ordered, "keys", Watched())
    for place in (0, 1, PAGE, 77 * PAGE + 5, len(keys) - 1):
        read.clear()
        assert ordered.places(keys[[place]]).tolist() == [place]
        assert len({at // PAGE for at in read}) == 1


@pytest.mark.parametrize("firsts", [np.arange(3), np.arange(2.0), np.zeros((2, 1), np.int64)])
def test_first_keys_that_do_not_fit_are_refused(tmp_path, firsts):
    write_ordered(tmp_path, "x", np.arange(PAGE + 1))
    np.save(tmp_path / "x_firsts.npy", firsts)
    with pytest.raises(ValueError, match="x: expected the first keys of 2 pages"):
        Ordered(tmp_path, "x")


def test_a_large_array_is_not_read_ahead_and_stays_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "LARGE", 0)
    np.save(tmp_path / "x.npy", np.arange(10))
    assert mapped.mapped(tmp_path / "x.npy", 1).tolist() == list(range(10))
