"""Reads the attributes back from a picture: a small convolutional network with one answer for each attribute.

It is trained on drawings whose attributes are all drawn independently and uniformly, so that it cannot guess a shirt
from the kind of figure: what it says is what it sees. The drawings are blurred, shifted, tinted and made grainy, and
where an autoencoder is at hand sent through it, as the pictures it has to read will have been.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from .augment import augment
from .characters import ATTRIBUTES, SIZE, Character, draw
from .schedule import Budget

MODEL = Path(__file__).resolve().parents[1] / "demo-model"
READER = Path("reader") / "reader.safetensors"  # inside a demo model's folder
DRAWINGS, HELD_OUT = 6000, 600
DEGRADED = 1500  # drawings sent through the autoencoder once, to train on
BATCH = 32

Degrade = Callable[[Tensor], Tensor]
log = logging.getLogger(__name__)


class ReaderUnusable(Exception):
    """There is no trained reader, or it is another one; ``str(error)`` says so in a sentence."""


class ReaderNetwork(nn.Module):
    """``[N, 3, 128, 128]`` in [−1, 1] to the logits of every attribute's words, ``{attribute: [N, words]}``."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((3, 24, 5, 2), (24, 32, 3, 2), (32, 64, 3, 2), (64, 64, 3, 1), (64, 96, 3, 2), (96, 96, 3, 1))
        self.body = nn.Sequential(*(layer for i, o, kernel, stride in widths for layer in (
            nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(o), nn.ReLU())))
        self.head = nn.Linear(96 * 16, sum(map(len, ATTRIBUTES.values())))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        features = F.adaptive_avg_pool2d(self.body(pictures), 4).flatten(1)
        parts = self.head(features).split([len(words) for words in ATTRIBUTES.values()], dim=1)
        return dict(zip(ATTRIBUTES, parts))


class Reader:
    """A trained network with its words."""

    def __init__(self, network: ReaderNetwork) -> None:
        self._network = network.eval()

    @classmethod
    def load(cls, model: Path = MODEL) -> Reader:
        """The reader of a demo model's folder. Raises :class:`ReaderUnusable`."""
        path = model / READER
        try:
            with safe_open(path, framework="pt") as file:
                words = json.loads((file.metadata() or {}).get("attributes", "{}"))
                weights = {name: file.get_tensor(name).float() for name in file.keys()}
        except (FileNotFoundError, SafetensorError) as error:
            raise ReaderUnusable(f"There is no usable attribute reader at {path} ({error}).") from error
        if words != {name: list(values) for name, values in ATTRIBUTES.items()}:
            raise ReaderUnusable(f"The attribute reader at {path} was trained for other attributes; train it again.")
        network = ReaderNetwork()
        network.load_state_dict(weights, strict=False)  # the batch counters of training are not kept
        return cls(network)

    @torch.no_grad()
    def read(self, pictures: Iterable[Image.Image | np.ndarray]) -> list[dict[str, str]]:
        """The word seen for every attribute of every picture, RGB of any size."""
        batch = [to_array(picture) for picture in pictures]
        found: list[dict[str, str]] = []
        for start in range(0, len(batch), 64):
            found += _words(self._network(to_tensor(np.stack(batch[start:start + 64]))))
        return found


@lru_cache(maxsize=1)
def _bundled() -> Reader:
    return Reader.load()


def read(pictures: Iterable[Image.Image | np.ndarray]) -> list[dict[str, str]]:
    """:meth:`Reader.read` by the bundled model's reader."""
    return _bundled().read(pictures)


def train_reader(folder: Path, seconds: float, seed: int, degrade: Degrade | None = None) -> dict:
    """Trains a reader for ``seconds`` and writes it to ``folder / READER``, its accuracy as JSON beside it.

    ``degrade`` sends ``[N, 3, 128, 128]`` in [−1, 1] through an autoencoder and back; with it a part of the training
    pictures goes that way, and the accuracy on held-out drawings is measured with and without. Returns what is written.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    pictures, labels = _drawings(DRAWINGS, rng)
    held, truth = _drawings(HELD_OUT, rng)
    if degrade:
        log.info("reader: sending %d drawings through the autoencoder", DEGRADED + HELD_OUT)
        pictures = np.concatenate([_through(degrade, pictures[:DEGRADED]), pictures])
        labels = torch.cat([labels[:DEGRADED], labels])
    network = _fit(pictures, labels, seconds, degrade is not None, seed)
    conditions = {"clean": to_tensor(held), "softened": augment(to_tensor(held), torch.Generator().manual_seed(seed))}
    if degrade:
        conditions["autoencoder"] = to_tensor(_through(degrade, held))
    accuracy = {name: _accuracy(network, batch, truth) for name, batch in conditions.items()}
    report = {
        "what": "share of held-out drawings, with independent uniform attributes, whose attribute is read correctly",
        "drawings": {"training": DRAWINGS, "held_out": HELD_OUT}, "seconds": round(seconds), "seed": seed,
        "accuracy": accuracy,
    }
    _save(network, folder / READER)
    (folder / READER).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def through(autoencoder) -> Degrade:
    """What a diffusers AutoencoderKL makes of a picture: encoded (the posterior's mean) and decoded again."""
    return lambda pictures: autoencoder.decode(autoencoder.encode(pictures).latent_dist.mean).sample


def to_array(picture: Image.Image | np.ndarray) -> np.ndarray:
    """``[128, 128, 3]`` uint8."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.convert("RGB")
    return np.asarray(image if image.size == (SIZE, SIZE) else image.resize((SIZE, SIZE), Image.LANCZOS))


def to_tensor(pictures: np.ndarray) -> Tensor:
    """``[N, H, W, 3]`` uint8 to ``[N, 3, H, W]`` float in [−1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _drawings(count: int, rng: random.Random) -> tuple[np.ndarray, Tensor]:
    """Drawings ``[count, 128, 128, 3]`` uint8 and the index of each attribute's word ``[count, attributes]``."""
    who = [Character(**{name: rng.choice(words) for name, words in ATTRIBUTES.items()}) for _ in range(count)]
    labels = [[words.index(getattr(one, name)) for name, words in ATTRIBUTES.items()] for one in who]
    return np.stack([np.asarray(draw(one, rng)) for one in who]), torch.tensor(labels)


@torch.no_grad()
def _through(degrade: Degrade, pictures: np.ndarray) -> np.ndarray:
    parts = [degrade(to_tensor(pictures[start:start + 16])) for start in range(0, len(pictures), 16)]
    return ((torch.cat(parts).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def _fit(pictures: np.ndarray, labels: Tensor, seconds: float, degraded: bool, seed: int) -> ReaderNetwork:
    network = ReaderNetwork().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(seed)
    budget, step = Budget(seconds, peak=3e-3), 0
    while not budget.over:
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate()
        which = torch.randint(0, len(pictures), (BATCH,), generator=generator)
        if degraded:  # half of the batch from the degraded drawings, which come first
            which[: BATCH // 2] = torch.randint(0, DEGRADED, (BATCH // 2,), generator=generator)
        batch = augment(to_tensor(pictures[which.numpy()]), generator)
        logits = network(batch.contiguous(memory_format=torch.channels_last))
        loss = sum(F.cross_entropy(part, labels[which, i], label_smoothing=0.02)
                   for i, part in enumerate(logits.values()))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if step % 100 == 0:
            log.info("reader step %d, %.0f s: %.3f", step, budget.spent, loss.item() / len(ATTRIBUTES))
    return network.eval()


@torch.no_grad()
def _accuracy(network: ReaderNetwork, batch: Tensor, truth: Tensor) -> dict[str, float]:
    parts = [network(batch[start:start + 64]) for start in range(0, len(batch), 64)]
    return {name: round((torch.cat([part[name] for part in parts]).argmax(1) == truth[:, i]).float().mean().item(), 4)
            for i, name in enumerate(ATTRIBUTES)}


def _words(logits: dict[str, Tensor]) -> list[dict[str, str]]:
    chosen = {name: part.argmax(1).tolist() for name, part in logits.items()}
    return [{name: ATTRIBUTES[name][indices[n]] for name, indices in chosen.items()}
            for n in range(len(next(iter(chosen.values()))))]


def _save(network: ReaderNetwork, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items()
               if value.is_floating_point()}
    words = {name: list(values) for name, values in ATTRIBUTES.items()}
    save_file(weights, path, metadata={"attributes": json.dumps(words), "format": "pt"})
