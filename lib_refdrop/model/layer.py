"""What a host's adapter tells: a call of the model, and one self-attention layer in the middle of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from .rows import Kind, Row
from .sites import Block, Site


class SiteInput(Protocol):
    """A self-attention layer in the middle of a call; only what is asked for is computed."""

    def hidden(self, row: int) -> Tensor | None:
        """The normed hidden state that K and V of one batch row are projected from, ``[tokens, C]``; None where another
        extension makes them of something else."""

    def key_values(self, row: int) -> tuple[Tensor, Tensor]:
        """K and V of one batch row, each ``[tokens, width]``."""

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """K and V, each ``[S, width]``, of a hidden state ``[S, C]``: this layer's own projections."""

    def queries(self, rows: slice) -> Tensor:
        """Q of some rows, ``[rows, tokens, width]``."""

    def project_queries(self, hidden: Tensor) -> Tensor:
        """Q ``[S, width]`` of a hidden state ``[S, C]``."""

    def attend(self, rows: slice, k: Tensor, v: Tensor, bias: Tensor | None = None,
               q: Tensor | None = None) -> Tensor:
        """Attention of some rows' queries over one reference's k and v ``[S, width]``, in the form that the layer's own
        output was given in: ``[rows, tokens, C]``. ``bias`` ``[S]`` is added to every query's logits; ``q`` are other
        queries ``[rows, tokens, width]`` in the place of their own."""

    def attention_map(self, row: int) -> Tensor:
        """Where one batch row's queries look among its own keys: ``[tokens, tokens]`` float32, the mean over heads,
        every line adding up to 1."""


class PromptInput(Protocol):
    """The cross-attention layer behind a site's self-attention, in the middle of a call."""

    def logits(self, row: int, positions: Sequence[int]) -> Tensor:
        """How much one batch row's queries are drawn to tokens of its prompt, before the softmax: ``[heads, tokens,
        positions]`` float32. Raises IndexError for a position that the prompt does not have."""


Listener = Callable[[Site, SiteInput], None]
BlockListener = Callable[[Block, Tensor], None]  # of a block's output [B, C, H, W]
PromptListener = Callable[[Site, PromptInput], None]


class Replay(Protocol):
    """Runs the model on other inputs, with listeners told of its layers, of its blocks' outputs, and where one is
    given, of its layers that look at the prompt."""

    def __call__(self, inputs: Mapping[str, Tensor], listener: Listener, blocks: BlockListener,
                 of_prompt: PromptListener | None = None) -> Tensor: ...


class HostCall(Protocol):
    """A call of the model that is about to run, as its host makes it."""

    size: tuple[int, int]  # the latent's height and width
    prediction: str  # what the model's output is: "eps", "v" or "flow"; empty where it is something else

    def inputs(self, row: int) -> dict[str, Tensor]:
        """What one batch row is called on: ``x`` ``[C, h, w]``, ``t`` and the conditioning by name, without batch."""

    def run(self, rows: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """The model's output ``[rows, C, h, w]`` on other inputs instead, in the middle of this call or of a later one;
        its layers tell the pass as ever."""


@dataclass(frozen=True)
class ModelCall:
    """One call of the model: its noise level, its rows, and the latent's size.

    ``visits`` counts, for each kind of row, the earlier calls of this pass at the same level: samplers of second order
    come to one twice. ``host`` is None where nothing can be looked at but the layers. ``replay(inputs, listener,
    blocks)`` runs the model on other inputs, with ``listener`` told of its layers and ``blocks`` of its blocks'
    outputs, and gives its output ``[1, C, h, w]``. A ``tiled`` call is on pieces of the picture: several of its rows
    may be of one image and kind.
    """

    sigma: float
    rows: tuple[Row, ...]
    visits: Mapping[Kind, int] = field(default_factory=dict)
    host: HostCall | None = None
    replay: Replay | None = None
    tiled: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the latent; zeros where it is not known."""
        return self.host.size if self.host else (0, 0)

    def row_of(self, kind: Kind, image: int) -> int | None:
        """The batch row of an image's rows of one kind; None where this call does not have it."""
        return next((at for at, row in enumerate(self.rows) if row.kind == kind and row.image == image), None)
