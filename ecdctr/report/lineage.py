"""The lineage of a version, laid out to be drawn: the web UI and the demo's report show the same.

Columns TPM, CPM, A-CTR; in each the oldest on top, and the earlier versions of a chain as one box.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ecdctr.config.terms import LEVELS

if TYPE_CHECKING:
    from ecdctr.store.manifest import Manifest, Ref
    from ecdctr.store.store import Store

# pixels, as lineage_drawing.html draws them
STEP_X, STEP_Y, BOX_WIDTH, BOX_HEIGHT, MARGIN = 300, 84, 220, 58, 10

Edge = tuple[int, int, int, int]  # x and y of both ends


class Node(NamedTuple):
    """A box: one version, or earlier ones of a chain, oldest first; x and y are in pixels."""

    versions: list[Manifest]
    x: int
    y: int


class Lineage(NamedTuple):
    """A lineage ready to draw: boxes, lines between their edges, the size of the whole.

    `versions` are all of them, newest first; `removed` is how many parents retention took away,
    which are not drawn.
    """

    nodes: list[Node]
    edges: list[Edge]
    width: int
    height: int
    versions: list[Manifest]
    removed: int


def lineage(store: Store, ref: Ref) -> Lineage:
    """Lay out the versions behind one. Raises StoreError if it is not there."""
    manifests = store.lineage(ref)
    named = {one: manifest.parent_refs for one, manifest in manifests.items()}
    parents = {one: [r for r in direct if r in manifests] for one, direct in named.items()}
    removed = {r for direct in named.values() for r in direct if r not in manifests}
    in_front = _in_front(parents, ref)
    columns = _columns(list(manifests), in_front)
    tallest = max(len(column) for column in columns)
    nodes: dict[Ref, Node] = {}
    for i, column in enumerate(columns):
        top = MARGIN + (tallest - len(column)) * STEP_Y // 2
        for j, box in enumerate(column):
            node = Node([manifests[r] for r in box], MARGIN + i * STEP_X, top + j * STEP_Y)
            nodes |= dict.fromkeys(box, node)
    return Lineage(
        nodes=list({id(node): node for node in nodes.values()}.values()),
        edges=_edges(parents, in_front, nodes),
        width=len(columns) * STEP_X,
        height=tallest * STEP_Y + MARGIN,
        versions=sorted(manifests.values(), key=lambda m: (m.data_date, m.level), reverse=True),
        removed=len(removed),
    )


def _in_front(parents: dict[Ref, list[Ref]], ref: Ref) -> set[Ref]:
    """Return the version itself and what it rests on, without earlier days of any chain."""
    in_front, ahead = {ref}, [ref]
    while ahead:
        one = ahead.pop()
        direct = [r for r in parents[one] if r.level != one.level and r not in in_front]
        in_front.update(direct)
        ahead += direct
    return in_front


def _columns(refs: list[Ref], in_front: set[Ref]) -> list[list[list[Ref]]]:
    """Return the boxes of each level that has any: earlier versions as one, the others alone."""
    columns = []
    for level in LEVELS:
        versions = sorted((r for r in refs if r.level == level), key=lambda r: (r.date, r))
        earlier = [r for r in versions if r not in in_front]
        columns.append([earlier] * bool(earlier) + [[r] for r in versions if r in in_front])
    return [column for column in columns if column]


def _edges(parents: dict[Ref, list[Ref]], in_front: set[Ref], nodes: dict[Ref, Node]) -> list[Edge]:
    """Return the lines from parents to children: down a column, or from a right to a left edge."""
    edges: dict[Edge, None] = {}
    for child, direct in parents.items():
        through = {r for parent in direct if parent.level == "cpm" for r in parents[parent]}
        for parent in direct:
            if child.level == "actr" and parent.level == "tpm" and parent in through:
                continue  # its snapshots are its CPM's
            a, b = nodes[parent], nodes[child]
            if a is b:
                continue
            if a.x == b.x:
                middle = a.x + BOX_WIDTH // 2
                edges[middle, a.y + BOX_HEIGHT, middle, b.y] = None
            elif child in in_front:  # what earlier ones started from stands in the table
                half = BOX_HEIGHT // 2
                edges[a.x + BOX_WIDTH, a.y + half, b.x, b.y + half] = None
    return list(edges)
