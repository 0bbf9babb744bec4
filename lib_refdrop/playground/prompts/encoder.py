"""From a prompt's text to what the UNet is told: chunks of 75 tokens, each read by the text encoder on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..sampling.model import Conditioning
from .emphasis import weighted

_BACK = 20  # tokens that a chunk may leave free, to end at a comma


class Chunk(NamedTuple):
    """Up to 75 tokens and their weights, without start, end and padding."""

    tokens: list[int]
    weights: list[float]


class TextEncoder:
    """The text encoders of a pipeline: one, or SDXL's two."""

    def __init__(self, pipeline: Any, clip_skip: int = 1) -> None:
        """``clip_skip`` 2 takes the last layer but one, and so on; SDXL's models always do, as in web UIs."""
        two = getattr(pipeline, "text_encoder_2", None) is not None
        pairs = [("tokenizer", "text_encoder")] * (getattr(pipeline, "text_encoder", None) is not None)
        pairs += [("tokenizer_2", "text_encoder_2")] * two
        self._parts = [_Part(getattr(pipeline, tokenizer), getattr(pipeline, encoder), 2 if two else clip_skip, two)
                       for tokenizer, encoder in pairs]

    @torch.no_grad()
    def encode(self, texts: Sequence[str], negative: bool = False) -> list[Conditioning]:
        """One :class:`Conditioning` a text, all as long. What is unwanted and empty tells SDXL nothing at all."""
        contexts, pooled = zip(*(part.read(texts) for part in self._parts))
        width = min(context.shape[1] for context in contexts)
        joined, last = torch.cat([context[:, :width] for context in contexts], dim=2), pooled[-1]
        if last is not None and negative and not any(texts):
            joined, last = torch.zeros_like(joined), torch.zeros_like(last)
        return [Conditioning(context, None if last is None else last[index]) for index, context in enumerate(joined)]

    def tokens(self, text: str) -> list[int]:
        """The text as the first encoder reads it: chunk after chunk, each with its start, end and padding."""
        return [token for chunk in self._parts[0].chunks(text) for token in self._parts[0].whole(chunk)]

    def count(self, text: str) -> tuple[int, int]:
        """How many tokens a text has, and into how many it would fit as it is cut."""
        chunks = self._parts[0].chunks(text)
        return sum(len(chunk.tokens) for chunk in chunks), self._parts[0].room * len(chunks)


class _Part:
    """One tokenizer with its encoder."""

    def __init__(self, tokenizer: Any, encoder: Any, layer: int, of_two: bool) -> None:
        self._tokenizer, self._encoder, self._layer, self._of_two = tokenizer, encoder, layer, of_two
        self.room = tokenizer.model_max_length - 2
        self._comma = next(iter(self._tokens(",")), None)

    def chunks(self, text: str) -> list[Chunk]:
        """The text in chunks; one that is full ends at a comma, if there was one lately."""
        found: list[Chunk] = []
        tokens: list[int] = []
        weights: list[float] = []
        comma = -1
        for stretch, weight in weighted(text):
            if weight is None:
                found.append(Chunk(tokens, weights))
                tokens, weights, comma = [], [], -1
                continue
            for token in self._tokens(stretch):
                if len(tokens) == self.room:
                    cut = comma if token != self._comma and comma > self.room - _BACK else self.room
                    found.append(Chunk(tokens[:cut], weights[:cut]))
                    tokens, weights, comma = tokens[cut:], weights[cut:], -1
                tokens.append(token)
                weights.append(weight)
                comma = len(tokens) if token == self._comma else comma
        return [*found, Chunk(tokens, weights)] if tokens or not found else found

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Contexts ``[texts, tokens, width]`` and pooled prompts ``[texts, width]`` (None of an encoder without)."""
        chunks = [self.chunks(text) for text in texts]
        longest = max(map(len, chunks))
        columns = list(zip(*(own + [Chunk([], [])] * (longest - len(own)) for own in chunks)))
        read = [self._read(column) for column in columns]
        return torch.cat([context for context, _ in read], dim=1), read[0][1]

    def whole(self, chunk: Chunk) -> list[int]:
        """A chunk's tokens as they are read: with start, end and padding."""
        start, end, pad = (getattr(self._tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
        return [start, *chunk.tokens, end, *[pad] * (self.room - len(chunk.tokens))]

    def _read(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor | None]:
        """One chunk of every text."""
        encoder, device = self._encoder, self._encoder.device
        ids = torch.tensor([self.whole(chunk) for chunk in chunks], dtype=torch.long)
        weights = torch.ones(ids.shape)
        for row, (tokens, given) in enumerate(chunks):
            weights[row, 1:len(tokens) + 1] = torch.tensor(given)
        said = encoder(ids.to(device), output_hidden_states=True)
        context = said.hidden_states[-self._layer] if self._layer > 1 or self._of_two else said.last_hidden_state
        if self._layer > 1 and not self._of_two:
            context = getattr(encoder, "text_model", encoder).final_layer_norm(context)
        return _emphasised(context.float(), weights.to(device)[..., None]), getattr(said, "text_embeds", None)

    def _tokens(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids


def _emphasised(context: Tensor, weights: Tensor) -> Tensor:
    """Weighs tokens, and brings the mean of everything back to what it was."""
    if bool((weights == 1).all()):
        return context
    weighed = context * weights
    restored = weighed * (context.mean() / weighed.mean())
    return restored if bool(torch.isfinite(restored).all()) else weighed  # a mean of 0 cannot be brought back
