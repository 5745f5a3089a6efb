"""The Normal around each head's σ: where its mean leaves the network, and with what a posterior is compared.

Heads are patched by their σ alone. What watches a training wants the mean and the KL beside it, and both can be told
from the readings: a Normal was given a mean, σ ε was added to one, a density or a KL is quadratic in it. A mean is
taken only where a module returns it as it is: of logits that go through a sigmoid the mean is none. And a posterior's
opposite is the σ that stands second in its KL, or that of a density of its own sample, or two numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vdvae_patch.heads import THE_MODEL, Compared, Correlation, Found, Head, Outlet
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Graph
from vdvae_patch.scanning.evidence import hazards
from vdvae_patch.scanning.evidence.emission import emission_of
from vdvae_patch.scanning.evidence.gaussian import GaussianTerm
from vdvae_patch.scanning.evidence.group import Group
from vdvae_patch.scanning.evidence.reading import Reading, Readings, where
from vdvae_patch.scanning.evidence.stacked import added_to
from vdvae_patch.scanning.heads.roles import is_one_kl


def with_normals(graph: Graph, readings: Readings, groups: Sequence[Group], heads: Sequence[Head]) -> list[Head]:
    """The heads, each of the group at the same place, with what was seen of their Normals."""
    pairing = _Pairing(graph, readings, groups)
    return [
        head if head.found is None else replace(head, found=pairing.seen(group, head.found))
        for group, head in zip(groups, heads, strict=True)
    ]


class _Pairing:
    def __init__(self, graph: Graph, readings: Readings, groups: Sequence[Group]) -> None:
        self._graph, self._readings, self._groups = graph, readings, groups
        self._priors: dict[int, list[int]] = {}
        """Where priors stand among the groups, by the totals and the means of their densities."""
        for place, group in enumerate(groups):
            terms = [r.term for r in group.readings if r.term is not None and r.evidence == "p"]
            for term in terms if group.role == "prior" else ():
                for node in (term.total, *(mean.node for mean in term.means)):
                    self._priors.setdefault(node.id, []).append(place)
        of_posteriors = (group for group in groups if group.role == "posterior")
        self._taken = {outlet for group in of_posteriors for outlet in self._given(group)}

    def seen(self, group: Group, found: Found) -> Found:
        """The same, and what its Normal is."""
        emission = group.emission
        whole = not group.readings[0].parts and (emission.at_output or emission.parameter)
        raw = Outlet(emission.path, emission.channels, emission.parameter) if whole else None
        prior = self._prior(group) if group.role == "posterior" else None
        found = replace(found, raw=raw, mean=self._mean(group), prior=prior)
        warnings = [*found.warnings]
        floored = next((r.term for r in group.readings if r.term is not None and r.term.floored), None)
        if floored is not None:
            warnings.append(hazards.of_floored_density(emission.path or THE_MODEL, where(floored.total)))
        correlation = self._correlation(group)
        if correlation is not None and correlation.reaches_one:
            warnings.append(
                hazards.of_correlation(emission.path or THE_MODEL, f"{correlation.file}:{correlation.line}")
            )
        return replace(found, correlation=correlation, warnings=tuple(warnings))

    def _mean(self, group: Group) -> Outlet | None:
        found = self._given(group)
        if not found:  # known from a density alone, where the other mean is the posterior's, or data, or a sample
            found = self._in_terms(group)
            found -= self._taken if len(found) > 1 else set()
        return next(iter(found)) if len(found) == 1 else None

    def _correlation(self, group: Group) -> Correlation | None:
        """What moves the correlation with the other value of the same density."""
        terms = [r.term for r in group.readings if r.term is not None and r.term.correlation]
        spots = {spot.key: spot for term in terms for spot in term.correlation}
        if not spots:
            return None
        first = next(iter(spots.values()))
        expression = Expression(Spot(terms[0].total))
        made = (spot.node for spot in expression.order if expression.depends[spot.key] == {first.key})
        file, _, line = where(next(made, terms[0].total)).rpartition(":")
        outlet = self._outlet(first) if len(spots) == 1 else None
        reaches = any(term.reaches_one for term in terms)
        return Correlation(outlet, file, int(line) if line.isdigit() else 0, reaches)

    def _given(self, group: Group) -> set[Outlet | None]:
        """What a Normal was given as its mean, and what σ ε was added to."""
        sigmas = {r.node.id if r.used < 0 else r.used for r in group.readings if r.evidence in ("Normal", "noise")}
        means = [normal.loc for normal in self._graph.normals if normal.scale.id in sigmas]
        for sigma in sigmas:
            for product in self._graph.consumers.get(sigma, ()):
                if product.id in self._readings.samples:
                    means += added_to(self._graph, product)
        return {self._outlet(Spot(mean)) for mean in means}

    def _in_terms(self, group: Group) -> set[Outlet | None]:
        means = [mean for reading in group.readings if reading.term is not None for mean in reading.term.means]
        return {self._outlet(mean) for mean in means if mean.node.params and mean.node.id not in self._readings.samples}

    def _outlet(self, spot: Spot) -> Outlet | None:
        """Where a value leaves the network as it is; None where it is computed of what does."""
        settled = settle(spot)
        if not settled.node.params:
            return None
        emission = emission_of(self._graph, settled)
        if not (emission.at_output or emission.parameter):
            return None
        return Outlet(emission.path, emission.channels, emission.parameter)

    def _prior(self, group: Group) -> Compared | None:
        drawn = frozenset(self._samples(group.readings))
        firsts = [r.term for r in group.readings if r.evidence == "q" and r.term is not None]
        near = {n for first in firsts for n in (first.total.id, *(mean.node.id for mean in first.means))}.union(drawn)
        places = sorted({place for number in near for place in self._priors.get(number, ())})
        seconds = [self._groups[place] for place in places if _is_second(drawn, firsts, self._groups[place])]
        if seconds:
            only = seconds[0].emission
            return Compared((only.path, str(only.channels))) if len(seconds) == 1 else None
        numbers = {r.term.prior for r in group.readings if r.term is not None and r.evidence == "q"}
        known = next(iter(numbers)) if len(numbers) == 1 else None
        return None if known is None else Compared(None, *known)

    def _samples(self, own: Sequence[Reading]) -> Iterator[int]:
        for reading in own:
            sigma = reading.node.id if reading.used < 0 else reading.used
            for product in self._graph.consumers.get(sigma, ()):
                if product.id in self._readings.samples:
                    yield product.id


def _is_second(drawn: frozenset[int], firsts: Sequence[GaussianTerm], other: Group) -> bool:
    """Whether a prior's σ stands second in a KL of a posterior's, or in a density of what was drawn from it."""
    for second in (r for r in other.readings if r.evidence == "p"):
        if second.term is None:
            continue
        if any(mean.node.id in drawn for mean in second.term.means):
            return True
        if any(is_one_kl(first, second.term) for first in firsts):
            return True
    return False
