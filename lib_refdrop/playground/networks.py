"""LoRAs from a folder, asked for in the prompt as ``<lora:name:0.8>`` and loaded by diffusers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ..words import first_line, no_memory, shortened
from .errors import ApiError, shown
from .models import quiet

_TAG = re.compile(r"<(\w+):([^<>]+)>")
_MOST = 20  # a prompt's
_NEAREST = 10  # names that a sentence lists


class ExtraNetworkParams(NamedTuple):
    """What stands in one tag behind its kind, divided at the colons; as web UIs name it."""

    items: list[str]


def parse_prompt(prompt: str) -> tuple[str, dict[str, list[ExtraNetworkParams]]]:
    """The prompt without its tags, and the tags by kind."""
    found: dict[str, list[ExtraNetworkParams]] = {}

    def note(tag: re.Match) -> str:
        found.setdefault(tag[1], []).append(ExtraNetworkParams(tag[2].split(":")))
        return ""

    return _TAG.sub(note, prompt), found


class Networks:
    """The LoRAs of one folder, and which of them are in the pipeline now."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._active: dict[str, tuple[float, float]] = {}

    def files(self) -> list[Path]:
        """What a prompt can ask for: no file whose name is no text in any encoding."""
        found = sorted(self.folder.glob("*.safetensors")) if self.folder else []
        return [path for path in found if not any("\ud800" <= letter <= "\udfff" for letter in path.name)]

    def check(self, prompt: str) -> None:
        """Raises :class:`ApiError` 422 for a tag that cannot be followed, before anything is computed."""
        self._wanted(parse_prompt(prompt)[1])

    def read_prompts(self, p: Any) -> None:
        """Takes the tags out of a batch's prompts; those of the first prompt count, as in web UIs."""
        for prompts, data in (("prompts", "extra_network_data"), ("hr_prompts", "hr_extra_network_data")):
            if getattr(p, prompts, None):
                parsed = [parse_prompt(prompt) for prompt in getattr(p, prompts)]
                setattr(p, prompts, [text for text, _ in parsed])
                setattr(p, data, parsed[0][1])

    def activate(self, p: Any, data: Mapping[str, list[ExtraNetworkParams]]) -> None:
        """Puts these and no others into the pipeline, and tells scripts. Raises :class:`ApiError` 422."""
        wanted = self._wanted(data)
        if wanted != self._active:
            self.deactivate(p)
            self._load(p.sd_model, wanted)
        if p.scripts:
            p.scripts.call(
                "after_extra_networks_activate",
                p,
                batch_number=p.iteration,
                prompts=p.prompts,
                seeds=p.seeds,
                subseeds=p.subseeds,
                extra_network_data=data,
            )

    def deactivate(self, p: Any) -> None:
        """The pipeline as it was loaded. More than once does no harm."""
        if self._active:
            self._unload(p.sd_model)

    def _load(self, pipeline: Any, wanted: Mapping[str, tuple[float, float]]) -> None:
        if not wanted:
            return
        self._active = dict(wanted)
        adapters = dict(zip((f"lora{index}" for index in range(len(wanted))), wanted.items()))
        try:
            with quiet(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several LoRAs are meant
                for adapter, (name, _) in adapters.items():
                    self._load_one(pipeline, adapter, name)
                reached = {adapter: {part for part, those in pipeline.get_list_adapters().items() if adapter in those}
                           for adapter in adapters}
                for adapter, (name, _) in adapters.items():
                    if not reached[adapter]:
                        raise ApiError(422, f"The LoRA {name!r} holds nothing for this model.")
                pipeline.set_adapters(list(adapters), [
                    {part: unet if part == "unet" else text for part in reached[adapter]}
                    for adapter, (_, (text, unet)) in adapters.items()])
        except ApiError:
            self._unload(pipeline)
            raise

    def _load_one(self, pipeline: Any, adapter: str, name: str) -> None:
        try:
            pipeline.load_lora_weights(str(self.folder), weight_name=f"{name}.safetensors", adapter_name=adapter,
                                       local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, IndexError) as error:
            if no_memory(error):
                raise
            raise ApiError(
                422, f"The LoRA {name!r} does not fit this model or is damaged ({first_line(error)})."
            ) from error

    def _unload(self, pipeline: Any) -> None:
        self._active = {}
        pipeline.unload_lora_weights()
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                vars(part).pop("_hf_peft_config_loaded", None)  # what diffusers leaves behind

    def _wanted(self, data: Mapping[str, list[ExtraNetworkParams]]) -> dict[str, tuple[float, float]]:
        """Name to strength in text encoder and UNet."""
        found: dict[str, tuple[float, float]] = {}
        for kind, tags in data.items():
            for items in (tag.items for tag in tags):
                if kind != "lora":
                    raise ApiError(422, f"The playground knows <lora:name:weight>, not {shown(f'<{kind}:…>')}.")
                found[self._known(items[0])] = _strengths(items)
        if len(found) > _MOST:
            raise ApiError(422, f"A prompt may ask for {_MOST} LoRAs, not {len(found)}.")
        return found

    def _known(self, name: str) -> str:
        if self.folder is None:
            raise ApiError(
                422, f"There is no LoRA {shown(name)}: start the playground with --lora-dir and a folder of them."
            )
        names = [path.stem for path in self.files()]
        if name in names:
            return name
        more = f" and {len(names) - _NEAREST} more" if len(names) > _NEAREST else ""
        listed = ", ".join(map(shortened, names[:_NEAREST])) + more
        raise ApiError(422, f"There is no LoRA {shown(name)} in {shortened(str(self.folder))}; there is: "
                            f"{listed or 'none'}.")


def _strengths(items: list[str]) -> tuple[float, float]:
    """``[name, weight]`` or ``[name, text encoder's, UNet's]``."""
    try:
        numbers = [float(item) for item in items[1:3]] or [1.0]
    except ValueError:
        numbers = [float("nan")]
    if not all(-10 <= number <= 10 for number in numbers) or len(items) > 3:
        raise ApiError(422, f"A LoRA's weight must be a number from -10 to 10, not {shown(':'.join(items[1:]))}.")
    return numbers[0], numbers[-1]
