"""Spoilt files, opened and used for guidance by a small but real UNet: it guides, or one sentence says why not."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from lib_refdrop.hosts.diffusers import attached, lineage_of
from lib_refdrop.model.rows import Row
from lib_refdrop.references.codec import Representation
from lib_refdrop.references.plan import Plan, preset
from lib_refdrop.stores import DiskStore
from lib_refdrop.techniques.reference.guidance import Guidance
from lib_refdrop.techniques.reference.masks import Mask
from lib_refdrop.techniques.reference.recording import Recording
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.words import RefDropError

from .forging import Forged
from .mutations import mutate, spoil

TIMESTEPS = (900.0, 500.0, 100.0)
LONGEST_SENTENCE = 600
SLOW = 1.0  # seconds of the processor's time


@dataclass
class Findings:
    """What became of the files: how often each, and the first of what should not have been."""

    counts: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def add(self, outcome: str, about: str, seconds: float, is_bad: bool) -> None:
        self.counts[outcome] += 1
        self.slowest = max(self.slowest, seconds)
        if is_bad:
            self.bad.append(f"{outcome}: {about}")

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.most_common())
        return (f"{sum(self.counts.values())}: {counts}; the slowest took {self.slowest:.2f} s; "
                f"{len(self.bad)} are faults")


class SmallModel:
    """Three guided steps of a UNet with four self-attention layers; the same latents and prompts each time."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.unet = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
            norm_num_groups=4, cross_attention_dim=16, attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D",
            "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")).eval()
        for name, weight in self.unet.named_parameters():
            if ".attn1." in name and weight.dim() == 2:
                weight.data.mul_(3)  # fresh attention is all but uniform
        self.lineage = lineage_of(self.unet)
        self._alphas = torch.linspace(0.999, 0.005, 1000)

    def draw(self, sampling_pass: SamplingPass | None = None, seed: int = 0) -> torch.Tensor:
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        context = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(9))
        rows = [Row("uncond"), Row("cond")]
        with torch.no_grad():
            if sampling_pass is None:
                return self._steps(x, context)
            with attached(self.unet, sampling_pass, lambda batch: rows, self._alphas):
                return self._steps(x, context)

    def _steps(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        for timestep in TIMESTEPS:
            rows = x.expand(2, -1, -1, -1)
            uncond, cond = self.unet(rows, torch.tensor(timestep), encoder_hidden_states=context).sample
            x = 0.5 * x + 0.5 * (uncond + 3 * (cond - uncond))
        return x

    def record(self, plan: Plan, folder: Path, name: str, mask: Mask | None = None) -> Path:
        """A reference of a picture, or of what a mask leaves of it, in a file."""
        recording = Recording(self.lineage, {"prompt": "a knight", "seed": 4}, plan, DiskStore(folder).writer(name),
                              part=mask.part if mask else None)
        recording.begin_pass("base")
        sampling_pass = SamplingPass([recording])
        self.draw(sampling_pass, seed=4)
        sampling_pass.finish()
        return recording.commit().path

    @cached_property
    def seeds(self) -> list[Forged]:
        """Files of every kind of keeping, and one as format 1 has it."""
        exact, found = preset("Exact", self.lineage), []
        with tempfile.TemporaryDirectory() as folder:
            for number, (what, trajectory) in enumerate([
                    ("hidden own", False), ("kv own", False), ("hidden fp16", True), ("kv int8", False),
                    ("hidden int4", True), ("kv int4", False), ("kv fp8", False), ("hidden bf16", False),
                    ("hidden int8 pool2", True)]):
                sites = dict.fromkeys(exact.sites, Representation.parse(what))
                plan = replace(exact, sites=sites, trajectory=trajectory)
                found.append(Forged.of(self.record(plan, Path(folder), f"seed-{number}")))
            mask = Mask(torch.tensor([[0.0, 0.2, 1, 1], [0, 0.7, 1, 1]]))
            found += [Forged.of(self.record(preset(how, self.lineage), Path(folder), f"masked-{how}", mask))
                      for how in ("Exact", "Balanced", "Tiny")]
            tiny = preset("Tiny", self.lineage)
            found += [Forged.of(self.record(tiny, Path(folder), f"tiny-{number}")) for number in range(3)]
        older = Forged.of_format_1(found[0])
        return [*found, older]

    def use(self, path: Path) -> tuple[torch.Tensor, int]:
        """The picture guided by a file, and in how many model calls it was. Raises :class:`RefDropError`."""
        with DiskStore(path.parent).using(path.stem) as reference:
            sampling_pass = SamplingPass([Guidance([(reference, 0.4)], self.lineage)])
            picture = self.draw(sampling_pass, seed=7)
            return picture, sampling_pass.finish()[0].acted


def spoilt(seeds: list[Forged], folder: Path, count: int, seed: int) -> Iterator[tuple[Path, str]]:
    """``count`` files, one after the other under one name, and what was done to each."""
    path = folder / "hero.safetensors"
    for number in range(count):
        chance = random.Random(f"{seed}/{number}")
        forged, sums, done = mutate(chance, chance.choice(seeds))
        try:
            forged.write(path, sums)
        except (TypeError, ValueError, OverflowError):  # not even a file can be made of that
            continue
        if chance.random() < 0.1:
            path.write_bytes(spoil(chance, path.read_bytes()))
            done.append("spoil")
        yield path, f"file {number} of seed {seed} ({', '.join(done)})"


def run(count: int, seed: int, model: SmallModel | None = None) -> Findings:
    """Opens and uses ``count`` spoilt files."""
    model, findings = model or SmallModel(), Findings()
    plain = model.draw(seed=7)
    with tempfile.TemporaryDirectory() as folder:
        for path, about in spoilt(model.seeds, Path(folder), count, seed):
            started = time.process_time()
            outcome, is_bad = outcome_of(model, path, plain)
            seconds = time.process_time() - started
            if seconds > SLOW:
                outcome, is_bad = f"slow ({outcome})", True
            findings.add(outcome, f"{about}, {seconds:.2f} s", seconds, is_bad)
    if not torch.equal(model.draw(seed=7), plain):
        findings.add("plain picture changed", "after all files", 0, True)
    return findings


def outcome_of(model: SmallModel, path: Path, plain: torch.Tensor) -> tuple[str, bool]:
    """What a file led to, and whether that is a fault."""
    try:
        picture, acted = model.use(path)
    except RefDropError as problem:
        return ("one sentence", False) if is_sentence(str(problem)) else (f"no sentence: {str(problem)[:300]!r}", True)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}", True
    if not torch.isfinite(picture).all():
        return "not finite, nothing said", True
    if not acted or torch.equal(picture, plain):
        return "not guided, nothing said", True
    return "guided", False


def is_sentence(text: str) -> bool:
    """Whether a text is one that tells a person about their file, and not that RefDrop failed."""
    return ("'hero'" in text or "hero.safetensors" in text) and text.isprintable() and text.endswith(".") and (
        len(text) <= LONGEST_SENTENCE and "RefDrop failed" not in text and "--no-half" not in text)
