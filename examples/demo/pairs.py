"""Reference and target pairs, derived from one seed: what is drawn first, and what is drawn after its likeness."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .characters import NAMED, prompt


@dataclass(frozen=True)
class Order:
    """One picture to make: what its prompt names, and the seed that decides the rest; None is left to it as well."""

    kind: str
    pose: str | None
    ground: str | None
    seed: int

    @property
    def prompt(self) -> str:
        return prompt(self.kind, self.pose, self.ground)

    @property
    def named(self) -> dict[str, str]:
        """The attributes that the prompt names."""
        return {name: getattr(self, name) for name in NAMED if getattr(self, name) is not None}


@dataclass(frozen=True)
class Pair:
    """A reference and a target of the same kind, in another pose, on another ground and from another seed."""

    reference: Order
    target: Order

    @property
    def kind(self) -> str:
        return self.target.kind


def make_pairs(seed: int, count: int, kinds: int = len(NAMED["kind"]), open_prompts: bool = False) -> list[Pair]:
    """``count`` pairs of so many ``kinds``, following from ``seed`` alone; a smaller ``count`` gives the first of them.

    Kinds come in shuffled rounds, so each is drawn equally often, to one. No image seed is used twice. With
    ``open_prompts`` the targets' prompts name the kind alone, of the same pairs and seeds: whatever of pose and ground
    then is the reference's leaked in, where a prompt that names another would have kept it out.
    """
    rng = random.Random(f"refdrop pairs {seed}")
    chosen = rng.sample(NAMED["kind"], kinds)
    pairs, turn, used = [], [], set()
    while len(pairs) < count:
        turn = turn or rng.sample(chosen, kinds)
        kind = turn.pop()
        poses, grounds = rng.sample(NAMED["pose"], 2), rng.sample(NAMED["ground"], 2)
        first, second = _fresh(rng, used), _fresh(rng, used)
        target = Order(kind, None, None, second) if open_prompts else Order(kind, poses[1], grounds[1], second)
        pairs.append(Pair(Order(kind, poses[0], grounds[0], first), target))
    return pairs


def _fresh(rng: random.Random, used: set[int]) -> int:
    """An image seed that is not in ``used``, and is from now on."""
    while (seed := rng.randrange(2**31)) in used:
        pass
    used.add(seed)
    return seed
