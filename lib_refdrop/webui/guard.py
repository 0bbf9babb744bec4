"""A session that never lets its own problems out into the host's model call, where they would end the request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..words import RefDropError
from ..techniques.sampling_pass import Outcome, Session
from ..model.layer import ModelCall, SiteInput
from ..model.sites import Site


class GuardedSession:
    """Stands in for a :class:`Session` at an adapter; after a problem, which ``tell`` hears of once, all stays plain.

    A reference's features are read while the model runs, so a file that is damaged or gone may show only then.
    """

    def __init__(self, session: Session, tell: Callable[[RefDropError], None]) -> None:
        self._session, self._tell = session, tell
        self._broken = False

    @property
    def outcome(self) -> Outcome:
        return self._session.outcome

    @property
    def replaying(self) -> bool:
        return self._session.replaying

    def begin_call(self, sigma: float, branches: Sequence[str], call: ModelCall | None = None) -> None:
        if self._broken:
            return
        try:
            self._session.begin_call(sigma, branches, call)
        except RefDropError as problem:
            self._give_up(problem)

    def at(self, site: Site, own: Tensor, layer: SiteInput) -> Tensor:
        if self._broken:
            return own
        try:
            return self._session.at(site, own, layer)
        except RefDropError as problem:
            self._give_up(problem)
            return own

    def _give_up(self, problem: RefDropError) -> None:
        self._broken = True
        self._tell(problem)
