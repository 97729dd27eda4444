"""The jobs of a study, stage by stage: one after the other here, or side by side in processes."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from ecdctr.processes import end_with_parent

if TYPE_CHECKING:
    from ecdctr.levels.request import Reporter

Stage = Callable[[str, Callable[..., Any], Iterable[tuple[Any, ...]]], list[Any]]


@contextlib.contextmanager
def stages(workers: int, reporter: Reporter) -> Iterator[Stage]:
    """Yield what does the jobs of a stage and returns their results in their order.

    It takes the stage's name, a function and the arguments of each job, and tells `reporter` of
    each that is done. The first job that fails ends the stage with its error. A single worker is
    this process, since another one would load torch again.
    """
    if workers == 1:
        yield lambda what, function, jobs: _in_turn(reporter, what, function, jobs)
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        yield lambda what, function, jobs: _side_by_side(pool, reporter, what, function, jobs)


def _in_turn(
    reporter: Reporter, what: str, function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]]
) -> list[Any]:
    todo, done = list(jobs), []
    reporter.start(what, len(todo))
    for job in todo:
        done.append(function(*job))
        reporter.advance(1)
    return done


def _side_by_side(
    pool: ProcessPoolExecutor,
    reporter: Reporter,
    what: str,
    function: Callable[..., Any],
    jobs: Iterable[tuple[Any, ...]],
) -> list[Any]:
    todo = list(jobs)
    reporter.start(what, len(todo))
    futures = [pool.submit(function, *job) for job in todo]
    try:
        for future in as_completed(futures):
            future.result()
            reporter.advance(1)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return [future.result() for future in futures]
