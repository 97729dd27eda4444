"""Scores candidates with an exported bundle.

Needs numpy and onnxruntime, neither torch nor Airflow. scorer = Scorer(Path("bundle"))
scorer.score({"ts": 1767225600, "user_id": 7, "user": {"city": 3}, "candidates": [{"item_id": 11},
…]})
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from ecdctr.errors import BundleChanged, EcdctrError, first_line
from ecdctr.examples import transforms
from ecdctr.examples.ragged import gap_buckets, pad
from ecdctr.examples.transforms import NUMPY
from ecdctr.serving.bundle import Bundle
from ecdctr.serving.memory_lookup import Remembered
from ecdctr.serving.once import Once, warn_of_unread
from ecdctr.serving.request import Shape
from ecdctr.serving.rules import RequestError
from ecdctr.serving.tables import Layout, compact

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 1e-5


class Scorer:
    """A loaded bundle. Thread-safe: every call has arrays of its own."""

    _once: Once | None = None  # not while it is proved, by requests with every click of the log

    def __init__(
        self, folder: Path, threads: int = 1, self_test: bool = True, verify: bool = False
    ) -> None:
        """Load a bundle and prove it by its self-test.

        Raises EcdctrError when it is not what was exported. verify: read the large tables whole and
        compare them with the export, too.
        """
        self.folder = folder
        bundle = Bundle(folder)
        with bundle.as_described():
            self._files = bundle.held()
            bundle.check_lengths()
            bundle.check(whole=verify)
            self.description = bundle.description
            self.kinds = bundle.kinds
            self.tables = bundle.tables()
            self.shape = Shape(self.description, self.kinds)
            self.layout = Layout.of(self.description)
            self._session = _session(bundle, threads)
            self._memory = self._open_memory("selftest_memory")
            if self_test:
                self._prove(bundle.self_test())
            self._memory = self._open_memory("memory")
            self._once = Once()

    @property
    def version(self) -> str:
        """The version that was exported."""
        return str(self.description["version"])

    @property
    def remembers_until(self) -> int | None:
        """The moment up to which it remembers users, in Unix seconds; None without memory."""
        return (
            (self._memory.until + 1) * transforms.DAY // transforms.SECOND if self._memory else None
        )

    def score(self, request: dict[str, Any]) -> NDArray[np.float32]:
        """Return click probabilities of a request's candidates, [candidates].

        Ids and categories that training never saw, features and counts left out, score as
        unknown. Raises RequestError for a feature that the model does not have, or a value of the
        wrong type; BundleChanged.
        """
        with self.unchanged():
            arrays = self.encode(request)
            return self.finite(arrays, self.run(arrays))

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Let nothing be scored by files that were written into since they were loaded.

        They are looked at before, since pages that were cut off end the process, and after. Raises
        BundleChanged.
        """
        self.check_unchanged()
        try:
            yield
        finally:
            self.check_unchanged()

    def check_unchanged(self) -> None:
        """Raise BundleChanged where a file was written into since it was loaded."""
        if path := self._files.changed():
            raise BundleChanged(
                f"{path} was written into while {self.version} is scored with it; nothing more is. "
                "Put the new bundle in a folder of its own and start again with that."
            )

    @property
    def columns(self) -> list[str]:
        """What the network reads of an impression beside its clicks, as `ecdctr prepare` says."""
        d = self.description
        return [*d["fields"], *(name for name, _ in d["multi"]), *d["numeric"]]

    def run(self, arrays: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Score what `encode` made, of one request or of several joined → [rows]."""
        inputs = compact(arrays, self.tables, self.layout)
        result: NDArray[np.float32] = self._session.run(None, inputs)[0]
        return result

    def finite(
        self, arrays: dict[str, NDArray[Any]], probabilities: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return the probabilities [candidates] of a request.

        Raises RequestError where a number was too much for the network.
        """
        if np.isfinite(probabilities).all():
            return probabilities
        names, numbers = list(self.description["numeric"]), np.abs(np.nan_to_num(arrays["numeric"]))
        row = int(np.argmax(~np.isfinite(probabilities)))
        largest = names[int(np.argmax(numbers[row]))] if names else "no numeric feature"
        raise RequestError(
            f"candidates[{row}]: the score is not a finite number; the largest value is that of "
            f"{largest}: is it in the unit that the model was trained on?"
        )

    def encode(self, request: dict[str, Any]) -> dict[str, NDArray[Any]]:
        """Return what `run` takes for a request of n candidates: arrays [n, …] by input.

        Rows of the tables, and numbers. Raises RequestError for a request that is not valid.
        """
        d = self.description
        checked = self.shape.check(request)
        moment = _microseconds(checked.ts)
        values = checked.values
        values["hour"] = [int(transforms.hour(NUMPY, moment))]
        count = checked.candidates
        ids = np.empty((count, len(d["fields"])), np.int32)
        for column, name in enumerate(d["fields"]):
            ids[:, column] = self.tables[name].ids.lookup(values[name])
        multi = np.zeros((count, sum(width for _, width in d["multi"])), np.int32)
        start = 0
        for name, width in d["multi"]:
            multi[:, start : start + width] = self._padded_rows(name, values[name], width)
            start += width
        prior = d["prior_ctr"] if checked.prior is None else checked.prior
        counted = self._counts("user", values, prior) | self._counts("item", values, prior)
        if self._memory:
            counted |= self._memory.columns(values, checked.recent, moment)
        numeric = np.empty((count, len(d["numeric"])), np.float32)
        for column, name in enumerate(d["numeric"]):
            made = counted[name] if name in counted else self._transformed(name, values[name])
            numeric[:, column] = made
        history, gaps = self._history(checked.clicks, moment)
        return {
            "ids": ids,
            "multi": multi,
            "numeric": numeric,
            "history": np.tile(history, (count, 1)),
            "gaps": np.tile(gaps, (count, 1)),
        }

    def _open_memory(self, name: str) -> Remembered | None:
        described = self.description.get(name)
        if not described:
            return None
        return Remembered(self.folder / name, described)

    def _padded_rows(self, name: str, lists: list[Any], width: int) -> NDArray[np.int32]:
        """Return rows of a multi-valued feature [lists, width], 0 pads; None counts as empty."""
        kept = [(values or [])[:width] for values in lists]
        rows = self.tables[name].ids.lookup([value for values in kept for value in values])
        return pad(rows, np.array([len(values) for values in kept]), width)

    def _transformed(self, name: str, values: list[Any]) -> NDArray[np.float32]:
        """Return a declared numeric feature as preparation makes it."""
        declared = self.description["numeric"][name]
        numbers = _numbers(values, declared["null"])
        return np.asarray(
            transforms.numeric(NUMPY, declared["transform"], numbers), dtype=np.float32
        )

    def _counts(
        self, side: str, values: dict[str, list[Any]], prior: float
    ) -> dict[str, NDArray[np.float32]]:
        """Return what the network reads of the counts of the user, or of each candidate.

        What is left out is nan, for which the graph takes the mean.
        """
        shown, clicked = transforms.COUNTS[side]
        impressions, clicks = (_numbers(values[name], math.nan) for name in (shown, clicked))
        if (clicks > impressions).any():
            i = int(np.argmax(clicks > impressions))
            place = f"user.{clicked}" if side == "user" else f"candidates[{i}].{clicked}"
            raise RequestError(
                f"{place}: expected at most {shown} ({impressions[i]:g}), found {clicks[i]:g}."
            )
        made = transforms.count_features(NUMPY, side, impressions, clicks, prior)
        return {name: numbers.astype(np.float32) for name, numbers in made.items()}

    def _history(
        self, clicks: list[tuple[Any, ...]], moment: int
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Return the clicks that the history holds, 0 pads.

        Rows of each field that is read of a click [G * H], and buckets of the seconds since [H].
        """
        d = self.description
        length = d["history_length"]
        rows = np.zeros((len(self.layout.clicked), length), np.int32)
        gaps = np.zeros(length, np.uint8)
        told = [(_microseconds(ts), *values) for ts, *values in clicks]
        days = d["history_days"]
        kept = transforms.newest_clicks(told, moment, days, length)
        if self._once and told:
            warn_of_unread(self._once, [click[0] for click in told], moment, days)
        for n, name in enumerate(self.layout.clicked):
            rows[n, : len(kept)] = self.tables[name].ids.lookup([click[n + 1] for click in kept])
        seconds = np.array([transforms.gap(moment, click[0]) for click in kept], np.float32)
        gaps[: len(kept)] = gap_buckets(seconds)
        return rows.reshape(-1), gaps

    def _prove(self, cases: list[dict[str, Any]]) -> None:
        users = self.tables["user_id"].ids
        for i, case in enumerate(cases):
            request, expected = case["request"], case["probabilities"]
            if case["user_row"]:  # an id of the vocabulary, which stays out of the self-test
                request["user_id"] = users.id_of(case["user_row"])
            try:
                scores = self.score(request)
            except RequestError as error:
                raise EcdctrError(
                    f"{self.folder}: the self-test's request {i} is refused ({error}) Do not serve "
                    "this bundle; export it again."
                ) from None
            worst = float(np.abs(scores - np.array(expected)).max())
            if not worst <= TOLERANCE:
                raise EcdctrError(
                    f"{self.folder}: the self-test fails at request {i}: expected {expected[:3]}…, "
                    f"found {scores[:3].tolist()}…, {worst:.1e} apart. Do not serve this bundle; "
                    "export it again."
                )


def _session(bundle: Bundle, threads: int) -> onnxruntime.InferenceSession:
    """Return the graph; raises EcdctrError when the runtime cannot read it."""
    content = bundle.content("model.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no base of their own
        raise EcdctrError(
            f"The bundle {bundle.folder} is damaged: model.onnx cannot be used "
            f"({first_line(error)}). Copy it again, or export it again."
        ) from None


def _microseconds(seconds: float) -> int:
    """Return a time of a request."""
    return round(seconds * transforms.SECOND)


def _numbers(values: list[Any], null: float) -> NDArray[np.float64]:
    return np.array([null if value is None else value for value in values], np.float64)
