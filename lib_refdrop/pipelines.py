"""RefDrop in a program of one's own, on any diffusers pipeline with a Stable Diffusion UNet::

    import lib_refdrop as refdrop

    with refdrop.record(pipe, "hero"):
        pipe("a pirate on grass", generator=torch.Generator().manual_seed(1))
    with refdrop.use(pipe, "hero", 0.3):
        picture = pipe("a nurse on snow").images[0]

Text to picture, picture to picture, inpainting; SD1.x, SD2.x, SDXL; whatever scheduler, attention processor or LoRA the
pipeline has. Afterwards, also after an exception, the pipeline is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from .hosts.diffusers import Clock, attached, clock_of, encoded, is_flow, lineage_of, prediction_of, self_attentions
from .hosts.fingerprint import differ, fingerprint
from .model.layer import HostCall
from .model.rows import COND, UNCOND, Kind, Row, chunks
from .model.schedule import SAME
from .model.sites import SECTIONS, Lineage
from .references.inversion import NOISING
from .references.picture import CELL, opened, pixels, size_for
from .references.plan import PRESETS, Plan, preset
from .references.reference import Reference
from .references.replay import Replays
from .stores import Saved, Store, open_store
from .techniques.reference.course import parse
from .techniques.reference.guidance import Guidance
from .techniques.reference.inverting import RECORDINGS, picture_record
from .techniques.reference.recording import Recording
from .techniques.reference.strength import Strength
from .techniques.sampling_pass import SamplingPass
from .techniques.technique import Outcome, Technique
from .words import RefDropError, ReferenceProblem, SettingsError, shortened, shown

FOLDER = Path(__file__).resolve().parents[1] / "latents"  # where the web UI's extension keeps its references, too


class Used:
    """What :func:`use` did: :attr:`outcomes`, one for each picture or batch drawn so far."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []


class Recorded:
    """What :func:`record` left behind, after its block: :attr:`saved` has name, bytes and place."""

    saved: Saved | None = None


@contextmanager
def use(pipe: Any, reference: str | Reference | Mapping[str, float | Strength], strength: float | Strength = 0.3, *,
        folder: str | Path | Store = FOLDER, sections: Sequence[str] = SECTIONS, layers: str = "") -> Iterator[Used]:
    """Pictures that ``pipe`` draws inside the block are guided by ``reference`` (Eq. 5 of the paper).

    ``strength`` is the RFG coefficient c in [−1, 1]: 0.2 to 0.4 for consistency, −0.3 for diversity. ``reference`` is a
    name in ``folder`` (a path, an fsspec URL, or a store), a reference itself, or several names, each with a strength:
    ``{"hero": 0.3, "villain": -0.2}`` (Eq. 7). ``sections`` are the layers that act, of "input", "middle", "output";
    ``layers`` says more exactly where and when: an expression of :mod:`~lib_refdrop.techniques.reference.course`, such
    as "Free layout; 0.1-0.8".

    Raises :class:`~lib_refdrop.words.RefDropError` at once where the reference is missing or does not fit the model,
    and after the block where a picture was not guided as asked: the first reason.
    """
    wanted = reference if isinstance(reference, Mapping) else {reference: strength}
    strengths = [_checked_strength(each, tuple(sections), layers) for each in wanted.values()]
    unet, done, problems = _unet(pipe), Used(), []
    lineage, replays = _lineage(pipe), Replays()
    with ExitStack() as opened:
        found = [(opened.enter_context(_opened(each, folder)), strength) for each, strength in zip(wanted, strengths)]
        hears = Guidance(found, lineage).hears_blocks  # says now what does not fit

        def techniques(sigma: float) -> list[Technique]:
            return [Guidance(found, lineage, replays=replays, sigmas=_known_sigmas(pipe, sigma))]

        def notes() -> list[str]:
            return _differences([each for each, _ in found], pipe)

        with _passes(pipe, unet, techniques, lambda technique, problem: problems.append(problem), done.outcomes, hears,
                     notes):
            yield done
        problems += [ReferenceProblem(f"Reference {each.name!r} was changed by another program while it was in use, so "
                                      "pictures are guided by parts of both; draw them again.")
                     for each, _ in found if each.changed()]
    if problems:
        raise problems[0]


@contextmanager
def record(pipe: Any, name: str, *, keep: str | Plan = "Balanced", folder: str | Path | Store = FOLDER,
           replace: bool = False, image: int = 0, picture: Image.Image | None = None,
           picture_seed: int = 0, picture_by: str = NOISING) -> Iterator[Recorded]:
    """The first picture that ``pipe`` draws inside the block becomes the reference ``name``; or ``picture`` does, a
    given one, with that generation's prompt for its caption and ``picture_seed`` for the noise that is added to it;
    or, with ``picture_by`` "Inversion", the noise that the model would have made it of.

    ``keep`` is a preset ("Exact", "Balanced", "Small", "Tiny") or a plan; ``image`` which picture of a batch. A name
    that is taken gets a number unless ``replace``; what it got is in the block's :class:`Recorded`, afterwards.

    Raises :class:`~lib_refdrop.words.RefDropError` where it could not be saved; after another exception nothing is.
    """
    unet, left, problems = _unet(pipe), Recorded(), []
    if picture_by not in RECORDINGS:
        raise SettingsError(f"picture_by must be {' or '.join(RECORDINGS)}, not {shown(picture_by)}.")
    lineage = _lineage(pipe)
    plan, made = _plan(keep, lineage), _provenance(pipe)
    given = None if picture is None else opened(picture)
    writer = _store(folder).writer(name, replace)
    if given is None:
        recording = Recording(lineage, made, plan, writer, image)
    else:
        made["picture"] = picture_record(given, picture_by, picture_seed)
        recording = RECORDINGS[picture_by](lineage, made, plan, writer, image, partial(_encoded, pipe, given),
                                           picture_seed, _spread(pipe))
    waiting = [recording]

    def techniques(sigma: float) -> list[Technique]:
        """The first generation's only."""
        if not waiting:
            return []
        recording.begin_pass("base", _known_sigmas(pipe, sigma))
        recording.provenance.update(_provenance(pipe))  # as the model is now, LoRAs and all
        return [waiting.pop()]

    try:
        with _passes(pipe, unet, techniques, lambda technique, problem: problems.append(problem), [],
                     recording.hears_blocks):
            yield left
        if problems:
            raise problems[0]
        left.saved = recording.commit()
    finally:
        recording.abort()


@contextmanager
def _passes(pipe: Any, unet: nn.Module, techniques: Callable[[float], list[Technique]], tell: Callable,
            outcomes: list[Outcome], hears_blocks: bool, notes: Callable[[], list[str]] = list) -> Iterator[None]:
    """A sampling pass for each generation of the pipeline while the block runs; ``hears_blocks`` is what their
    techniques say, ``notes`` are what there is to say of one that begins."""
    current = _Current(pipe, techniques, tell, outcomes, hears_blocks, notes)
    with attached(unet, current, current.rows, _clock(pipe), prediction_of(pipe.scheduler)):
        yield
        current.finish()


class _Current(SamplingPass):
    """Stands for the generation that runs: a pipeline makes a schedule anew for each, and so begins another pass."""

    def __init__(self, pipe: Any, techniques: Callable[[float], list[Technique]], tell: Callable,
                 outcomes: list[Outcome], hears_blocks: bool, notes: Callable[[], list[str]]) -> None:
        super().__init__([])
        self._hears_blocks = hears_blocks
        self._pipe, self._new, self._all, self._begin_with = pipe, techniques, outcomes, notes
        self._inform = tell
        self._now: SamplingPass | None = None
        self._said: list[str] = []  # of the generation that runs
        self._schedule: Any = None  # the timesteps of the generation that runs, the very object

    def rows(self, batch: int) -> list[Row]:
        """Every row of a batch: chunk after chunk, each with all images."""
        kinds = _kinds(self._pipe)
        if batch % len(kinds):
            raise RefDropError(f"RefDrop does not know the rows of a {type(self._pipe).__name__}'s batch, so it cannot "
                               "take part.")
        return chunks(kinds, batch // len(kinds))

    def failed(self, error: Exception) -> None:
        """The first call may fail, before there is a pass."""
        if self._now is None:
            self._now = SamplingPass(self._new(0.0), self._inform)
        self._now.failed(error)

    @property
    def hears_blocks(self) -> bool:
        return self._hears_blocks

    @property
    def replaying(self) -> bool:
        return self._now is not None and self._now.replaying

    def call(self, sigma: float, rows: Sequence[Row], host: HostCall | None = None, tiled: bool = False) -> None:
        schedule = getattr(self._pipe.scheduler, "timesteps", None)
        if self._now is None or schedule is not self._schedule:
            self.finish()
            self._now, self._schedule = SamplingPass(self._new(sigma), self._inform), schedule
            self._said = self._begin_with()
        self._now.call(sigma, rows, host, tiled)

    def attention(self, site: Any, own: Tensor, layer: Any) -> Tensor:
        return own if self._now is None else self._now.attention(site, own, layer)

    def block(self, block: Any, output: Tensor) -> Tensor:
        return output if self._now is None else self._now.block(block, output)

    def note(self, sentence: str) -> None:
        if self._now is not None:
            self._now.note(sentence)

    def finish(self) -> list[Outcome]:
        now, self._now = self._now, None
        found = now.finish() if now is not None else []
        for outcome in found:
            for sentence in self._said:
                outcome.note(sentence)
        self._all += found
        return found


@contextmanager
def _opened(reference: str | Reference, folder: str | Path | Store) -> Iterator[Reference]:
    if isinstance(reference, Reference):
        yield reference
        return
    with _store(folder).using(reference) as found:
        yield found


def _store(folder: str | Path | Store) -> Store:
    return open_store(folder) if isinstance(folder, (str, Path)) else folder


def _unet(pipe: Any) -> nn.Module:
    unet = getattr(pipe, "unet", None)
    if not isinstance(unet, nn.Module) or not self_attentions(unet):
        raise RefDropError(f"A {type(pipe).__name__} has no Stable Diffusion UNet; RefDrop works with SD1.x, SD2.x "
                           "and SDXL pipelines.")
    _clock(pipe)
    return unet


def _lineage(pipe: Any) -> Lineage:
    return lineage_of(pipe.unet, is_flow(pipe.scheduler))


def _clock(pipe: Any) -> Clock:
    try:
        return clock_of(pipe.scheduler)
    except AttributeError as error:
        raise RefDropError(f"RefDrop cannot follow the noise levels of a {type(pipe.scheduler).__name__}; choose a "
                           "scheduler with alphas_cumprod, such as EulerDiscreteScheduler.") from error


def _kinds(pipe: Any) -> list[Kind]:
    """What the chunks of a UNet batch are, as diffusers' pipelines line them up."""
    guides = getattr(pipe, "do_classifier_free_guidance", False)
    if guides and hasattr(pipe, "image_guidance_scale"):  # InstructPix2Pix
        kinds = [Kind(COND), Kind(UNCOND), Kind(UNCOND, 1)]
    else:
        kinds = [Kind(UNCOND), Kind(COND)] if guides else [Kind(COND)]
    perturbs = getattr(pipe, "do_perturbed_attention_guidance", False)  # the prompt once more
    return [*kinds, Kind(COND, 1)] if perturbs else kinds


def _known_sigmas(pipe: Any, begun: float) -> list[float] | None:
    """The noise levels of the generation that has just begun at one of them, by its scheduler."""
    timesteps = getattr(pipe.scheduler, "timesteps", None)
    if timesteps is None:
        return None
    clock = _clock(pipe)
    return [sigma for timestep in timesteps if (sigma := clock(float(timestep))) <= begun * (1 + SAME)]


def _encoded(pipe: Any, picture: Image.Image, size: tuple[int, int]) -> Tensor:
    """The latent of a picture, for pictures whose latents are of ``size`` (height, width)."""
    multiple = CELL * 2 ** max(shape.level for shape in lineage_of(pipe.unet).sites.values())
    wanted = size_for(picture.size, size[0] * size[1] * CELL**2, multiple)
    return encoded(pipe.vae, pixels(picture, wanted), getattr(pipe, "_execution_device", None))


def _spread(pipe: Any) -> float:
    """The standard deviation of the data that the model was made for: EDM's schedulers have their own."""
    scheduler = pipe.scheduler
    return float(scheduler.config.get("sigma_data", 1.0)) if hasattr(scheduler, "precondition_noise") else 1.0


def _plan(keep: str | Plan, lineage: Lineage) -> Plan:
    if isinstance(keep, Plan):
        return keep
    if keep not in PRESETS:
        raise SettingsError(f"keep must be {' or '.join(PRESETS)}, not {keep!r}.")
    return preset(keep, lineage)


def _checked_strength(strength: float | Strength, sections: tuple[str, ...], layers: str) -> Strength:
    if isinstance(strength, Strength):
        return strength
    if not isinstance(strength, (int, float)) or not -1 <= strength <= 1:
        raise SettingsError(f"strength must be a number from -1 to 1, not {strength!r}.")
    if not sections or set(sections) - set(SECTIONS):
        raise SettingsError(f"sections must be some of {', '.join(SECTIONS)}, not {sections!r}.")
    return Strength(float(strength), sections, parse(layers))


def _provenance(pipe: Any) -> dict[str, Any]:
    return {"model": Path(str(getattr(pipe.config, "_name_or_path", ""))).name or type(pipe).__name__,
            "weights": fingerprint(self_attentions(pipe.unet), pipe.unet.dtype)}


def _differences(references: Sequence[Reference], pipe: Any) -> list[str]:
    """A sentence where the model is not the one that a reference was saved with, as far as that can be told."""
    here = fingerprint(self_attentions(pipe.unet), pipe.unet.dtype)
    return [f"Reference {each.name!r} was saved with other weights "
            f"({shortened(str(each.manifest.get('model') or 'unknown'))}; a LoRA counts, too); the same ones serve "
            "best."
            for each in references if differ(each.manifest.get("weights"), here)]
