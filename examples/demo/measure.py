"""How alike, how obedient and how varied pictures are, from the words read off them. 95 % intervals by bootstrap.

*Agreement* of a target with its reference is the share of *unnamed* attributes (those the prompt leaves to the seed)
that have the reference's word. *Prompt adherence* is the share of *named* attributes that have the prompt's word.
*Diversity* is taken among the targets of one kind: the share of unnamed attributes in which two of them differ,
averaged over all such twos of all kinds; 0 where they are all the same, and (1 − 1/words) on average where every word
is equally likely.

Likeness can be bought by copying, so it is taken apart. *Subject agreement* is the agreement of the figure's own
unnamed attributes, *sky agreement* that of the one which belongs to the place. *Ground* and *pose agreement* are the
shares of pairs in which the target stands on the reference's ground, or as the reference stands. *Copy rate* is the
share of pairs in which either is so although the target's prompt names another. Plain pictures have all of these too,
by chance and by mistake: only what a guided row has more than the plain one was copied. Where prompts leave pose and
ground open, nothing is copied against them, and ground and pose agreement say what leaked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .characters import STEREOTYPES, UNNAMED

Words = dict[str, str]
RESAMPLES = 2000
SKY = "sky"
SUBJECT = tuple(name for name in UNNAMED if name != SKY)  # the figure's own, whatever it stands in front of
PLACES = ("ground", "pose")  # bound to the place in the picture: a reference is to leave them to the prompt
# Every measure of a row of targets, by its field in reports.
MEASURES = ("agreement", "subject_agreement", "sky_agreement", "ground_agreement", "pose_agreement", "copy_rate",
            "prompt_adherence", "diversity")


class Measured(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def measures(references: Sequence[Words], wanted: Sequence[Words], targets: Sequence[Words],
             kinds: Sequence[str]) -> dict[str, Measured]:
    """All :data:`MEASURES` of the targets of pairs; ``wanted`` are the words their prompts name."""
    def agreement(*names: str) -> Measured:
        return mean_of_rows(agreement_matrix(references, targets, names))

    return {
        "agreement": agreement(*UNNAMED),
        "subject_agreement": agreement(*SUBJECT),
        **{f"{name}_agreement": agreement(name) for name in (SKY, *PLACES)},
        "copy_rate": mean_of_rows(copied_matrix(references, wanted, targets).max(axis=1, keepdims=True))
        if all(name in words for words in wanted for name in PLACES) else Measured(*(float("nan"),) * 3),
        "prompt_adherence": mean_of_rows(adherence_matrix(wanted, targets)),
        "diversity": mean_of_twos(difference_matrix(targets, kinds)),
    }


def agreement_matrix(references: Sequence[Words], targets: Sequence[Words],
                     names: Sequence[str] = tuple(UNNAMED)) -> np.ndarray:
    """``[pairs, names]`` of 0 and 1: where the target has its reference's word. All unnamed attributes by default."""
    return np.array([[float(one[name] == other[name]) for name in names] for one, other in zip(references, targets)])


def copied_matrix(references: Sequence[Words], wanted: Sequence[Words], targets: Sequence[Words]) -> np.ndarray:
    """``[pairs, PLACES]`` of 0 and 1: where the target has its reference's word although its prompt names another."""
    return np.array([[float(target[name] == reference[name] != prompt[name]) for name in PLACES]
                     for reference, prompt, target in zip(references, wanted, targets)])


def adherence_matrix(wanted: Sequence[Words], targets: Sequence[Words]) -> np.ndarray:
    """``[pairs, named attributes]`` of 0 and 1: where the target has the prompt's word. All prompts name the same."""
    return np.array([[float(other[name] == word) for name, word in one.items()] for one, other in zip(wanted, targets)])


def difference_matrix(targets: Sequence[Words], kinds: Sequence[str]) -> np.ndarray:
    """``[pairs, pairs]``: the share of unnamed attributes in which two targets differ; NaN unless of one kind.

    NaN on the diagonal too, so that a target drawn twice by the bootstrap is not compared with itself.
    """
    count = len(targets)
    matrix = np.full((count, count), np.nan)
    for i in range(count):
        for j in range(count):
            if i != j and kinds[i] == kinds[j]:
                matrix[i, j] = np.mean([targets[i][name] != targets[j][name] for name in UNNAMED])
    return matrix


def stereotype_share(targets: Sequence[Words], kinds: Sequence[str]) -> float:
    """Share of the attributes that are drawn skewed for a kind which have the stereotype's word."""
    return float(np.mean([target[name] == word for target, kind in zip(targets, kinds)
                          for name, word in STEREOTYPES[kind].items()]))


def by_attribute(matrix: np.ndarray) -> dict[str, Measured]:
    """The mean of every column of an agreement matrix, by the attribute's name."""
    return {name: mean_of_rows(matrix[:, [column]]) for column, name in enumerate(UNNAMED)}


def mean_of_rows(matrix: np.ndarray, seed: int = 0) -> Measured:
    """The mean of a ``[pairs, attributes]`` matrix; whole pairs are resampled, their attributes belong together.

    Where everything is 0, or 1, resampling knows no doubt: 0 of 8 and 0 of 800 would be equally certain. The interval
    then ends where that many alike have a probability of 2.5 % (Clopper and Pearson; attributes taken as independent).
    """
    found = bootstrap(len(matrix), lambda rows: float(matrix[rows].mean()), seed)
    doubt = 1 - 0.025 ** (1 / matrix.size)
    if (matrix == 0).all():
        return found._replace(high=doubt)
    return found._replace(low=1 - doubt) if (matrix == 1).all() else found


def mean_of_twos(matrix: np.ndarray, seed: int = 0) -> Measured:
    """The mean of a difference matrix's numbers; NaN where no two targets are of one kind."""
    def value(rows: np.ndarray) -> float:
        chosen = matrix[np.ix_(rows, rows)]
        there = ~np.isnan(chosen)
        return float(chosen[there].mean()) if there.any() else float("nan")
    return bootstrap(len(matrix), value, seed)


def bootstrap(count: int, value: Callable[[np.ndarray], float], seed: int = 0) -> Measured:
    """``value`` of all rows, and the 2.5 and 97.5 percentiles of it over :data:`RESAMPLES` resamples of rows."""
    rng = np.random.default_rng(seed)
    resampled = np.array([value(rng.integers(0, count, count)) for _ in range(RESAMPLES)])
    resampled = resampled[~np.isnan(resampled)]
    low, high = np.percentile(resampled, (2.5, 97.5)) if len(resampled) else (float("nan"),) * 2
    return Measured(value(np.arange(count)), float(low), float(high))
