"""What looks like a scale and is none, though it multiplies noise or stands in a density."""

from __future__ import annotations

import torch

from vdvae_patch.composition import Composition
from vdvae_patch.scanning import ops
from vdvae_patch.scanning.graph import Graph
from vdvae_patch.scanning.reading import NearMiss, Readings, where
from vdvae_patch.scanning.replay import Expression, Spot, settle

_GRID = torch.linspace(-4, 4, 33, dtype=torch.float64)


def drop_others(graph: Graph, out: Readings) -> None:
    """Take out of the readings what is no head, each with the reason as a near miss."""
    _drop_bounds(out)
    _drop_unsigned(out)
    _drop_statistics(out)
    _drop_fixed(graph, out)


def _drop_bounds(out: Readings) -> None:
    """Leave out parameters that a scale reads beside a network's output, and not as a term or a factor of it."""
    networks = {(r.chain.begin.key, r.chain.end) for r in out.found if r.raw.node.kind != "parameter"}
    kept = []
    for reading in out.found:
        beside = reading.chain.end == "several" and (reading.chain.begin.key, "several") in networks
        if reading.raw.node.kind == "parameter" and beside:
            reason = f"{reading.raw.node.op} bounds or shifts a scale that a network emits"
            out.near_misses.append(NearMiss(where(reading.node), reason))
        else:
            kept.append(reading)
    out.found = kept


def _drop_statistics(out: Readings) -> None:
    """Leave out what is averaged over values that the host computes: a σ made of the residuals is no network's. And a
    layer's output whose weights are the variances of others: the σ is theirs."""
    kept = []
    raws = {reading.raw.key for reading in out.found}
    for reading in out.found:
        node = reading.raw.node
        weights = (
            [n for n in node.inputs if n.params and not (n.data or n.noise)]
            if node.op in ops.PRODUCTS | ops.CONVOLUTIONS
            else []
        )
        if any(
            key in raws
            for n in weights
            if settle(Spot(n)).node.kind == "elementwise"
            for key in Expression(Spot(n)).leaves
        ):
            out.near_misses.append(NearMiss(where(node), "it adds up variances of weights, whose scales are heads"))
            continue
        source = settle(Spot(node.inputs[0])).node if node.kind == "reduction" and node.inputs else None
        if source is not None and source.kind == "elementwise":
            reason = "it is a statistic of values that the host computes, and no network's output"
            out.near_misses.append(NearMiss(where(node), reason))
        else:
            kept.append(reading)
    out.found = kept


def _drop_fixed(graph: Graph, out: Readings) -> None:
    """Leave out parameters that are not trained: constants by another name."""
    kept = []
    for reading in out.found:
        if reading.raw.node.kind == "parameter" and reading.raw.node.op in graph.fixed:
            out.near_misses.append(NearMiss(reading.raw.node.op, "it is a parameter that is not trained"))
        else:
            kept.append(reading)
    out.found = kept


def _drop_unsigned(out: Readings) -> None:
    """Leave out what only multiplies noise and may be negative, or is a parameter that no density measures."""
    shown = {r.raw.key for r in out.found if r.evidence != "noise"}
    kept = []
    for reading in out.found:
        reason = ""
        if reading.evidence == "noise" and reading.raw.key not in shown and not reading.parts:
            steps = reading.steps
            if reading.raw.node.kind == "parameter":
                reason = "a parameter scales noise, and no density or KL measures it: a noise layer"
            elif steps is not None and bool((Composition(steps).sigma(_GRID) < 0).any()):
                reason = "it multiplies noise but may be negative, and no density or KL measures it"
        if reason:
            out.near_misses.append(NearMiss(where(reading.node), reason))
        else:
            kept.append(reading)
    out.found = kept
