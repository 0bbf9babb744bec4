"""What the web UIs' adapters share: sentences about what they saw, hooks that let no fault of ours into the host."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from ..model.sites import Block
from ..techniques.sampling_pass import SamplingPass

SWAPPED = "The model was changed in the middle of the generation (a refiner); RefDrop took no part from there on."
BATCH_CHANGED = "Another extension changes the batch inside the model, so not everything could be guided."
TILED = ("The picture was made in tiles (MultiDiffusion, Tiled Diffusion): each tile is guided by all of the "
         "reference; none is saved.")


class Owner(Protocol):
    """What hooks belong to."""

    sampling_pass: SamplingPass


def guarded(owner: weakref.ref, event: str, otherwise: Callable[..., Any] = lambda *given: None) -> Callable[..., Any]:
    """A hook that hands on to a method of ``owner``, for as long as there is one.

    A host may forget to close a generation that failed: what is left behind must not keep it alive. Where the method
    fails, the pass goes on without RefDrop and the host hears ``otherwise`` instead: its own call must not end with a
    fault of ours.
    """

    def hook(*given: Any) -> Any:
        mine = owner()
        if mine is None:
            return otherwise(*given)
        try:
            return getattr(mine, event)(*given)
        except Exception as error:
            mine.sampling_pass.failed(error)
            return otherwise(*given)

    return hook


def on_loaded(module: nn.Module, event: Callable[[], None]) -> Any:
    """Tells when other weights come into a module's own tensors: a refiner that keeps the modules. Returns a handle."""
    return module.register_load_state_dict_post_hook(lambda module, incompatible: event())


def block_hooks(outputs: Mapping[Block, nn.Module], at: Callable[[Block, Tensor], Tensor]) -> list[Any]:
    """Hooks on the modules that give blocks' outputs: the model goes on with what ``at`` makes of them. Returns
    handles."""

    def hook(block: Block) -> Callable[[nn.Module, tuple, Any], Any]:
        def gave(module: nn.Module, args: tuple, output: Any) -> Any:
            found = output[0] if isinstance(output, tuple) else output
            if not isinstance(found, Tensor):
                return None
            made = at(block, found)
            if made is found:
                return None
            return (made, *output[1:]) if isinstance(output, tuple) else made

        return gave

    return [module.register_forward_hook(hook(block)) for block, module in outputs.items()]


def remove_all(handles: Sequence[Any]) -> None:
    for handle in handles:
        handle.remove()
