"""One sampling pass: hands the host's events to the techniques, and lets no problem of theirs out into the host."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from torch import Tensor

from ..model.layer import BlockListener, HostCall, Listener, ModelCall, PromptInput, PromptListener, SiteInput
from ..model.rows import Kind, Row
from ..model.schedule import rounded
from ..model.sites import Block, Site
from ..words import Interrupted, RefDropError, StoreProblem, first_line, no_memory
from .technique import Outcome, Technique

logger = logging.getLogger("RefDrop")

Answer = TypeVar("Answer")


class SamplingPass:
    """An adapter calls :meth:`call` before each model call, :meth:`attention` in every site and, where that is heard,
    :meth:`block` behind every block; nothing it calls raises, but for what ends the whole program (KeyboardInterrupt).

    A technique that raises takes no further part, and ``tell`` hears of both: a
    :class:`~lib_refdrop.words.RefDropError` as it is, memory that ran out and a fault of ours as one sentence each, the
    fault with all its lines in the log. Without ``tell`` the problem is kept and :meth:`finish` raises it.
    """

    def __init__(self, techniques: Sequence[Technique],
                 tell: Callable[[Technique, RefDropError], None] | None = None) -> None:
        self._techniques, self._tell = list(techniques), tell
        self._visits: dict[tuple[Kind, float], int] = {}
        self._listener: tuple[Listener, BlockListener] | None = None
        self._prompt_listener: PromptListener | None = None
        self.cross_sites = frozenset(site for technique in techniques for site in technique.cross_sites)
        self._notes = Outcome()
        self.problem: RefDropError | None = None  # the first
        self.outcomes: dict[Technique, Outcome] = {}  # of those that took part to the end

    @property
    def replaying(self) -> bool:
        """Whether the model call that runs is one of a replay: :meth:`call` is not to be told of it."""
        return self._listener is not None

    @property
    def hears_blocks(self) -> bool:
        """Whether :meth:`block` is to be called; known before the pass begins."""
        return any(technique.hears_blocks for technique in self._techniques)

    @property
    def calls(self) -> int:
        """How many model calls there were."""
        return self._notes.calls

    def note(self, sentence: str) -> None:
        """Something that an adapter saw and the user should know; said once."""
        self._notes.note(sentence)

    def call(self, sigma: float, rows: Sequence[Row], host: HostCall | None = None, tiled: bool = False) -> None:
        """A model call starts: its noise level, the rows of its batch, and the call itself.

        Without ``host`` there is no trajectory to record, no token to merge and nothing to replay. A ``tiled`` call is
        on pieces of the picture, and one of several at a level: all are first visits.
        """
        sigma = rounded(sigma)
        self._notes.calls += 1
        visits = {}
        for kind in dict.fromkeys(row.kind for row in rows):
            visits[kind] = 0 if tiled else self._visits.get((kind, sigma), 0)
            self._visits[kind, sigma] = visits[kind] + 1
        call = ModelCall(sigma, tuple(rows), visits, host, partial(self._replay, host) if host else None, tiled)
        for technique in list(self._techniques):
            self._guarded(technique, partial(technique.call, call), None)

    def attention(self, site: Site, own: Tensor, layer: SiteInput) -> Tensor:
        """The output of a self-attention layer ``[B, tokens, C]``: ``own`` itself, or what techniques made of it."""
        if self._listener:
            self._listener[0](site, layer)
            return own
        out = own
        for technique in list(self._techniques):
            out = self._guarded(technique, partial(technique.attention, site, out, layer), out)
        return out

    def block(self, block: Block, output: Tensor) -> Tensor:
        """The output of a block ``[B, C, H, W]``: ``output`` itself, or what techniques made of it."""
        if self._listener:
            self._listener[1](block, output)
            return output
        out = output
        for technique in list(self._techniques):
            if technique.hears_blocks:
                out = self._guarded(technique, partial(technique.block, block, out), out)
        return out

    def cross_attention(self, site: Site, layer: PromptInput) -> None:
        """The layer that looks at the prompt behind one of :attr:`cross_sites`."""
        if self._listener:
            if self._prompt_listener:
                self._prompt_listener(site, layer)
            return
        for technique in list(self._techniques):
            if site in technique.cross_sites:  # others may have asked for it
                self._guarded(technique, partial(technique.cross_attention, site, layer), None)

    def finish(self) -> list[Outcome]:
        """Ends the pass: what each technique that took part to the end did, with what the adapter noted.

        Raises the first :class:`~lib_refdrop.words.RefDropError`, unless ``tell`` hears of problems.
        """
        for technique in list(self._techniques):
            outcome = self._guarded(technique, partial(self._finished, technique), None)
            if outcome is not None:
                for sentence in self._notes.notes:
                    outcome.note(sentence)
                self.outcomes[technique] = outcome
        self._techniques = []
        if self.problem and not self._tell:
            raise self.problem
        return list(self.outcomes.values())

    def _finished(self, technique: Technique) -> Outcome:
        try:
            return technique.finish()
        except RefDropError as problem:
            if self._notes.notes:  # what the adapter saw is why
                raise RefDropError(" ".join(self._notes.notes)) from problem
            raise

    def _replay(self, host: HostCall, inputs: Mapping[str, Tensor], listener: Listener,
                blocks: BlockListener, of_prompt: PromptListener | None = None) -> Tensor:
        self._listener, self._prompt_listener = (listener, blocks), of_prompt
        try:
            return host.run([inputs])
        finally:
            self._listener = self._prompt_listener = None

    def failed(self, error: Exception) -> None:
        """A fault in an adapter: no technique takes further part, and the user is told as of a technique's own."""
        for technique in list(self._techniques):
            self._gives_up(technique, error)

    def _guarded(self, technique: Technique, event: Callable[[], Answer], otherwise: Answer) -> Answer:
        """The answer to an event; after a problem ``otherwise``, with the technique gone from this pass."""
        try:
            return event()
        except Exception as error:  # the host's model call must not end with a fault of ours
            self._gives_up(technique, error)
        return otherwise

    def _gives_up(self, technique: Technique, error: Exception) -> None:
        found = told(error)
        if technique in self._techniques:
            self._techniques.remove(technique)
        if self.problem is None or isinstance(self.problem, Interrupted):
            self.problem = found
        if self._tell:
            self._tell(technique, found)


def told(error: Exception) -> RefDropError:
    """What the user is told of an error; one of nobody's making is in the log with all its lines."""
    if isinstance(error, RefDropError):
        return error
    if no_memory(error):
        return StoreProblem("There is not enough memory to guide this generation; choose a smaller size or batch, or "
                            f"keep less of the reference ({first_line(error)}).")
    logger.error("A fault inside RefDrop", exc_info=error)
    return RefDropError(f"RefDrop failed ({type(error).__name__}: {first_line(error)}), so this generation goes "
                        "without it from here on; please report it with the lines in the log.")
