"""Scores candidates with an exported bundle. Needs numpy and onnxruntime, neither torch nor Airflow.

scorer = Scorer(Path("bundle"))
scorer.score({"ts": 1767225600, "user_id": 7, "user": {"city": 3}, "candidates": [{"item_id": 11}, …]})
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ecdctr.errors import EcdctrError
from ecdctr.examples import transforms
from ecdctr.examples.ragged import gap_buckets, pad
from ecdctr.examples.transforms import NUMPY

SCHEMA_VERSION = 3
TOLERANCE = 1e-5
KEYS = frozenset({"ts", "user_id", "user", "context", "history", "prior_ctr", "candidates"})


class RequestError(EcdctrError):
    """A request that does not fit the bundle: what, where, what is expected."""


class Scorer:
    """A loaded bundle. Thread-safe: every call has arrays of its own."""

    def __init__(self, folder: Path, threads: int = 1, self_test: bool = True) -> None:
        """Load a bundle and prove it by its self-test; raises EcdctrError when it is not what was exported."""
        self.folder = folder
        try:
            self.description: dict[str, Any] = json.loads((folder / "bundle.json").read_text())
        except (OSError, ValueError) as error:
            raise EcdctrError(
                f"{folder} is no bundle: bundle.json cannot be read ({error})."
            ) from None
        if self.description.get("schema_version") != SCHEMA_VERSION:
            raise EcdctrError(
                f"{folder}: expected a bundle of schema {SCHEMA_VERSION}, found "
                f"{self.description.get('schema_version')}; export it again with this release."
            )
        with np.load(folder / "vocabularies.npz", allow_pickle=False) as arrays:
            self._vocabularies = {
                name: (arrays[f"{name}.ids"], arrays[f"{name}.rows"])
                for name in self.description["vocabularies"]
            }
        self._item_side = frozenset(self.description["item_side"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            (folder / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        if self_test:
            self._prove(folder)

    @property
    def version(self) -> str:
        """The version that was exported."""
        return str(self.description["version"])

    def score(self, request: dict[str, Any]) -> NDArray[np.float32]:
        """Click probabilities of a request's candidates, [candidates].

        Ids and categories that training never saw, and features left out, score as unknown; a user or item without
        counts as preparation has one that was never shown. Raises RequestError for a feature that the model does not
        have, or a value of the wrong type.
        """
        return self.run(self.encode(request))

    @property
    def columns(self) -> list[str]:
        """What the network reads of an impression, as `ecdctr prepare` names it."""
        d = self.description
        return [
            *d["fields"],
            *(name for name, _ in d["multi"]),
            *d["numeric"],
            "history",
            "history_gap",
        ]

    def run(self, arrays: dict[str, NDArray]) -> NDArray[np.float32]:
        """Click probabilities of what `encode` made, of one request or of several joined, [rows]."""
        result: NDArray[np.float32] = self._session.run(None, arrays)[0]
        return result

    def encode(self, request: dict[str, Any]) -> dict[str, NDArray]:
        """The graph's inputs for a request: rows of the embedding tables and numbers."""
        d = self.description
        moment, candidates = self._check(request)
        user = request.get("user", {})
        hour = int(transforms.hour(NUMPY, moment))
        shared = {"user_id": request.get("user_id"), "hour": hour} | user
        shared |= request.get("context", {})

        def values(name: str) -> list[Any]:  # of the request, once, or of each candidate
            if name in self._item_side:
                return [candidate.get(name) for candidate in candidates]
            return [shared.get(name)]

        ids = np.empty((len(candidates), len(d["fields"])), np.int32)
        for column, name in enumerate(d["fields"]):
            ids[:, column] = self._rows(name, values(name))
        multi = np.zeros((len(candidates), sum(width for _, width in d["multi"])), np.int32)
        start = 0
        for name, width in d["multi"]:
            multi[:, start : start + width] = self._padded_rows(name, values(name), width)
            start += width
        prior = self._prior(request.get("prior_ctr"))
        counted = self._counts("user", [user], prior) | self._counts("item", candidates, prior)
        numeric = np.empty((len(candidates), len(d["numeric"])), np.float32)
        for column, name in enumerate(d["numeric"]):
            found = counted[name] if name in counted else self._transformed(name, values(name))
            numeric[:, column] = found
        history, gaps = self._history(request.get("history", []), moment)
        shape = (len(candidates), len(history))
        return {
            "ids": ids,
            "multi": multi,
            "numeric": numeric,
            "history": np.ascontiguousarray(np.broadcast_to(history, shape)),
            "gaps": np.ascontiguousarray(np.broadcast_to(gaps, shape)),
        }

    def _check(self, request: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
        """The moment in microseconds, and the candidates."""
        d = self.description
        unknown = sorted(set(request) - KEYS)
        if unknown:
            raise RequestError(
                f"Unknown key '{unknown[0]}' in the request; see request.schema.json."
            )
        candidates = request.get("candidates")
        if not isinstance(candidates, list) or not candidates:
            raise RequestError("candidates: expected a list with at least one candidate.")
        known = {"user": set(d["user_side"]), "context": set(d["context_side"])}
        parts = [("user", request.get("user", {})), ("context", request.get("context", {}))]
        for part, features in parts:
            _refuse_unknown(part, features, known[part])
        for i, candidate in enumerate(candidates):
            if not isinstance(candidate, dict) or not self._item_side.issuperset(candidate):
                _refuse_unknown(f"candidates[{i}]", candidate, self._item_side)
        try:
            dt.datetime.fromtimestamp(float(request["ts"]), dt.UTC)  # a year that there is
            return _microseconds(request["ts"]), candidates
        except (KeyError, TypeError, ValueError, OverflowError, OSError):
            raise RequestError(
                f"ts: expected seconds since 1970 (UTC), found {request.get('ts')!r}."
            ) from None

    def _rows(self, name: str, values: list[Any]) -> NDArray[np.int32]:
        """Rows of an embedding table, 0 for unknown and missing."""
        ids, _ = self._vocabularies[name]
        if None in values:
            found = np.zeros(len(values), np.int32)
            present = [i for i, value in enumerate(values) if value is not None]
            if present:
                found[present] = self._rows(name, [values[i] for i in present])
            return found
        if not values or not len(ids):
            return np.zeros(len(values), np.int32)
        try:
            wanted = np.array(values)
        except (ValueError, TypeError, OverflowError):  # lists of different lengths, for example
            wanted = np.array([None])
        if wanted.dtype.kind != ids.dtype.kind or wanted.ndim != 1:
            kind, expected = (str, "a string") if ids.dtype.kind == "U" else (int, "an integer")
            wrong = next((value for value in values if not isinstance(value, kind)), values[0])
            raise RequestError(f"{name}: expected {expected}, found {wrong!r:.60}.")
        return self.lookup(name, wanted)

    def kind(self, name: str) -> str:
        """Of a vocabulary's ids: 'U' strings, 'i' integers."""
        return self._vocabularies[name][0].dtype.kind

    def lookup(self, name: str, wanted: NDArray) -> NDArray[np.int32]:
        """Rows of ids [n] of the vocabulary's type, 0 for unknown ones."""
        ids, rows = self._vocabularies[name]
        if not len(ids):
            return np.zeros(len(wanted), np.int32)
        position = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        return np.where(ids[position] == wanted, rows[position], 0).astype(np.int32)

    def _padded_rows(self, name: str, lists: list[Any], width: int) -> NDArray[np.int32]:
        """Rows of a multi-valued feature [lists, width], 0 pads; None counts as empty."""
        kept = []
        for values in lists:
            if values is not None and not isinstance(values, list):
                raise RequestError(f"{name}: expected a list of values, found {values!r:.60}.")
            kept.append((values or [])[:width])
        rows = self._rows(name, [value for values in kept for value in values])
        return pad(rows, np.array([len(values) for values in kept]), width)

    def _transformed(self, name: str, values: list[Any]) -> NDArray[np.float32]:
        """A declared numeric feature as preparation makes it."""
        declared = self.description["numeric"][name]
        numbers = _numbers(name, values, declared["null"])
        return np.asarray(
            transforms.numeric(NUMPY, declared["transform"], numbers), dtype=np.float32
        )

    def _prior(self, value: Any) -> float:
        if value is None:
            return float(self.description["prior_ctr"])
        prior = float(_numbers("prior_ctr", [value], 0.0)[0])
        if not 0 <= prior <= 1:
            raise RequestError(f"prior_ctr: expected a number from 0 to 1, found {value!r:.60}.")
        return prior

    def _counts(
        self, side: str, parts: list[dict[str, Any]], prior: float
    ) -> dict[str, NDArray[np.float32]]:
        """What the network reads of the counts in the user's part, or in each candidate; left out is 0."""
        shown, clicked = transforms.COUNTS[side]
        impressions = _numbers(shown, [part.get(shown) for part in parts], 0.0)
        clicks = _numbers(clicked, [part.get(clicked) for part in parts], 0.0)
        for name, numbers in ((shown, impressions), (clicked, clicks)):
            if (numbers < 0).any():
                raise RequestError(f"{name}: expected 0 or more, found {numbers.min():g}.")
        if (clicks > impressions).any():
            i = int(np.argmax(clicks > impressions))
            raise RequestError(
                f"{clicked}: expected at most {shown} ({impressions[i]:g}), found {clicks[i]:g}."
            )
        made = transforms.count_features(NUMPY, side, impressions, clicks, prior)
        return {name: values.astype(np.float32) for name, values in made.items()}

    def _history(
        self, clicks: list[dict[str, Any]], moment: int
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """The clicks that the history holds: rows and buckets of the seconds since, 0 pads."""
        d = self.description
        length = d["history_length"]
        rows, gaps = np.zeros(length, np.int32), np.zeros(length, np.uint8)
        try:
            told = [(_microseconds(click["ts"]), click["item_id"]) for click in clicks]
            kept = transforms.newest_clicks(told, moment, d["lookback_days"], length)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise RequestError(
                "history: expected a list of clicks, each with 'item_id' and 'ts' in seconds."
            ) from None
        rows[: len(kept)] = self._rows("item_id", [item for _, item in kept])
        seconds = np.array([transforms.gap(moment, then) for then, _ in kept], np.float32)
        gaps[: len(kept)] = gap_buckets(seconds)
        return rows, gaps

    def _prove(self, folder: Path) -> None:
        test = json.loads((folder / "selftest.json").read_text())
        users = self._ids_by_row("user_id", {case["user_row"] for case in test})
        for i, case in enumerate(test):
            request = case["request"]
            if case["user_row"]:  # an id of the vocabulary, which stays out of the self-test
                request["user_id"] = users[case["user_row"]]
            found = self.score(request)
            worst = float(np.abs(found - np.array(case["probabilities"])).max())
            if not worst <= TOLERANCE:
                raise EcdctrError(
                    f"{folder}: the self-test fails at request {i}: expected {case['probabilities'][:3]}…, found "
                    f"{found[:3].tolist()}…, {worst:.1e} apart. Do not serve this bundle; export it again."
                )

    def _ids_by_row(self, name: str, wanted: set[int]) -> dict[int, Any]:
        ids, rows = self._vocabularies[name]
        chosen = np.isin(rows, list(wanted))
        return dict(zip(rows[chosen].tolist(), ids[chosen].tolist(), strict=True))


def _microseconds(seconds: Any) -> int:
    """A time of a request; raises TypeError, ValueError or OverflowError if it is none."""
    return round(float(seconds) * transforms.SECOND)


def _numbers(name: str, values: list[Any], null: float) -> NDArray[np.float64]:
    wrong = next(
        (value for value in values if value is not None and not isinstance(value, int | float)),
        None,
    )
    if wrong is not None:
        raise RequestError(f"{name}: expected a number, found {wrong!r:.60}.")
    try:
        numbers = np.array([null if value is None else value for value in values], np.float64)
    except OverflowError:
        raise RequestError(f"{name}: expected a finite number, found {values!r:.60}.") from None
    if not np.isfinite(numbers).all():
        raise RequestError(f"{name}: expected a finite number, found {values!r:.60}.")
    return numbers


def _refuse_unknown(where: str, features: Any, known: Collection[str]) -> None:
    if not isinstance(features, dict):
        raise RequestError(
            f"{where}: expected an object of features, found {type(features).__name__}."
        )
    unknown = sorted(set(features).difference(known))
    if unknown:
        raise RequestError(
            f"{where}: the model has no feature '{unknown[0]}'; it knows {', '.join(sorted(known))}."
        )
