"""How long saving and using a reference take, over the same generation without."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from lib_refdrop.hosts import diffusers
from lib_refdrop.hosts.diffusers import lineage_of
from lib_refdrop.model.rows import Row
from lib_refdrop.references.plan import PRESETS, preset
from lib_refdrop.references.replay import Replays
from lib_refdrop.references.sizes import estimate
from lib_refdrop.stores import DiskStore, Saved
from lib_refdrop.techniques.reference.guidance import Guidance
from lib_refdrop.techniques.reference.recording import Recording
from lib_refdrop.techniques.sampling_pass import SamplingPass

from . import original
from .models import BOTH, Model, Scene, alphas_cumprod
from .timing import Timed, Variant, interleave

C = 0.3
REFERENCE_SEED, SEED = 1, 2
_KEPT, _TIMED = "references", "timed"  # folders: of what is used, and of what is saved while the clock runs


class Generations:
    """One picture's generation with a UNet: plain, saving references, or guided by those in ``folder``.

    References are of another seed than the pictures that they guide. All that a user waits for is inside: opening and
    reading the file, and writing it until it has its name.
    """

    def __init__(self, model: Model, unet: nn.Module, device: str, folder: Path) -> None:
        self.unet, self.folder, self.lineage, self.picture = unet, folder, lineage_of(unet), model.picture()
        self._rows = model.rows
        self._reference, self._scene = (Scene.of(model, unet, device, seed) for seed in (REFERENCE_SEED, SEED))

    def plain(self) -> Tensor:
        return self._scene.draw(self.unet)

    def save(self, *presets: str, place: str = _TIMED, scene: Scene | None = None) -> list[Saved]:
        """References of one generation on the disk, one of each preset, named like it."""
        store, recordings = DiskStore(self.folder / place), []
        try:
            for name in presets:
                plan = preset(name, self.lineage)
                writer = store.writer(name, expected=estimate(plan, self.lineage, self.picture))
                recordings.append(Recording(self.lineage, {}, plan, writer))
                recordings[-1].begin_pass("base")
            with attached(self.unet, SamplingPass(recordings), self._rows):
                (scene or self._scene).draw(self.unet)
            return [recording.commit() for recording in recordings]
        finally:
            for recording in recordings:
                recording.abort()

    def use(self, name: str, replays: Replays | None = None) -> Tensor:
        """The picture, guided by a reference from the disk. RuntimeError where it was not guided throughout."""
        with DiskStore(self.folder / _KEPT).using(name) as reference:
            sampling_pass = SamplingPass([Guidance([(reference, C)], self.lineage, replays=replays)])
            with attached(self.unet, sampling_pass, self._rows):
                latent = self._scene.draw(self.unet)
            outcome = sampling_pass.finish()[0]
        if not outcome.acted == outcome.calls == self.picture.steps:
            raise RuntimeError(f"guided {outcome.acted} of {outcome.calls} calls, not {self.picture.steps}")
        return latent

    def save_original(self, place: str = _TIMED, scene: Scene | None = None) -> None:
        with original.saving(self.unet, self.folder / place):
            (scene or self._scene).draw(self.unet)

    def use_original(self) -> Tensor:
        with original.using(self.unet, self.folder / "original", C):
            return self._scene.draw(self.unet)

    def make_references(self) -> dict[str, dict[str, int]]:
        """One reference of each preset and the original's files, all of the same picture: their "bytes" and "files"."""
        made = dict(zip(PRESETS, self.save(*PRESETS, place=_KEPT, scene=self._reference)))
        self.empty("original")
        self.save_original("original", self._reference)
        files = [path.stat().st_size for path in (self.folder / "original").iterdir()]
        return {"bytes": {**{name.lower(): saved.bytes for name, saved in made.items()}, "original": sum(files)},
                "files": {**{name.lower(): saved.files for name, saved in made.items()}, "original": len(files)}}

    def empty(self, place: str = _TIMED) -> None:
        """Makes a folder without anything in it."""
        shutil.rmtree(self.folder / place, ignore_errors=True)
        (self.folder / place).mkdir(parents=True)


@contextmanager
def attached(unet: nn.Module, sampling_pass: SamplingPass, branches: Sequence[str] = BOTH) -> Iterator[None]:
    """Techniques take part, as in a web UI, while the block runs."""
    rows = [Row(branch) for branch in branches]
    with diffusers.attached(unet, sampling_pass, lambda batch: rows, alphas_cumprod()):
        yield


def variants(made: Generations) -> dict[str, Variant]:
    """Everything that is held against a plain generation, by the name that it has in the results.

    "save" keeps what the default preset does. The features of a Tiny reference are computed in its first use and stay
    in memory for the later ones.
    """
    last = [Replays()]

    def save(run: Callable[[], object]) -> Variant:
        return Variant(run, before=made.empty, after=made.empty)

    def replayed_anew() -> None:
        last[0] = Replays()

    return {
        "save": save(lambda: made.save("Balanced")),
        "save_exact": save(lambda: made.save("Exact")),
        "save_original": save(made.save_original),
        "use_exact": Variant(lambda: made.use("Exact")),
        "use_balanced": Variant(lambda: made.use("Balanced")),
        "use_small": Variant(lambda: made.use("Small")),
        "use_tiny_first": Variant(lambda: made.use("Tiny", last[0]), before=replayed_anew),
        "use_tiny": Variant(lambda: made.use("Tiny", last[0])),
        "use_original": Variant(made.use_original),
    }


def measure(model: Model, device: str, rounds: int, folder: Path, tell: Callable[[str], None] = lambda text: None,
            only: set[str] | None = None, unet: nn.Module | None = None, between: int = 1) -> dict:
    """The variants (or those in ``only``) on one model: "ratio", its "spread" and "cpu_ratio" (of the processor's time)
    by name, "seconds" of a plain generation and of each, "bytes" and "files" of the references."""
    tell("making the UNet")
    made = Generations(model, model.filled(device) if unet is None else unet, device, folder)
    tell("saving the references")
    sizes = made.make_references()
    chosen = {name: each for name, each in variants(made).items() if only is None or name in only}
    plain, timed = interleave(Variant(made.plain), chosen, rounds, device, tell, between=between)
    return {"ratio": {name: round(each.ratio, 4) for name, each in timed.items()},
            "cpu_ratio": {name: round(each.cpu_ratio, 4) for name, each in timed.items()},
            "spread": {name: [round(end, 4) for end in each.spread] for name, each in timed.items()},
            "seconds": {"plain": _seconds(plain), **{name: _seconds(each) for name, each in timed.items()}},
            "steps": model.steps, "rounds": rounds, "branches": len(model.rows), **sizes}


def _seconds(timed: Timed) -> float:
    return round(timed.middle, 4)
