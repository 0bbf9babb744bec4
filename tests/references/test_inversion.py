"""Inversion against what is known without it: data of one normal distribution, whose way up is a formula."""

from __future__ import annotations

import math

import pytest
import torch

from lib_refdrop.references.inversion import inverted

WIDTH, LATENT = 0.7, torch.tensor([0.3, -1.2, 0.9])  # of the data, and one of them


def output_of(prediction: str, x: torch.Tensor, sigma: float) -> torch.Tensor:
    """What the best of models predicts for ``x`` in its own scale, by the definition of what it predicts."""
    if prediction == "flow":  # x = (1 − σ)z + σε
        spread = (1 - sigma)**2 * WIDTH**2 + sigma**2
        return (sigma - (1 - sigma) * WIDTH**2) / spread * x  # the mean of ε − z
    alpha = 1 / math.sqrt(1 + sigma**2)  # x = αz + ασε
    spread = alpha**2 * (WIDTH**2 + sigma**2)
    z, noise = alpha * WIDTH**2 / spread * x, alpha * sigma / spread * x
    return noise if prediction == "eps" else alpha * noise - alpha * sigma * z


def way_up(prediction: str, sigma: float) -> torch.Tensor:
    """All of the distribution gets wider alike."""
    if prediction == "flow":
        return LATENT * math.sqrt((1 - sigma)**2 * WIDTH**2 + sigma**2) / WIDTH
    return LATENT * math.sqrt(WIDTH**2 + sigma**2) / WIDTH / math.sqrt(1 + sigma**2)


@pytest.mark.parametrize("prediction, most", [("eps", 14.0), ("v", 14.0), ("flow", 0.98)])
@pytest.mark.parametrize("levels, off", [(200, 0.03), (20, 0.25)])
def test_it_goes_the_models_own_way(prediction, most, levels, off) -> None:
    sigmas = [most * (number / levels)**2 for number in range(1, levels + 1)]
    asked: list[float] = []

    def predict(x, sigma):
        asked.append(sigma)
        return output_of(prediction, x, sigma)

    found = inverted(LATENT, reversed(sigmas), predict, prediction)
    assert asked == sigmas == list(found)  # once a level, from the quietest on
    for sigma in sigmas:
        assert torch.allclose(found[sigma], way_up(prediction, sigma), atol=off)


def test_eulers_method_comes_down_again_where_a_model_is_not_so_simple() -> None:
    """A mixture of two points: the way down by the same model ends in the picture, from noise that it chose itself."""
    def noise(x, sigma):
        x = x * math.sqrt(1 + sigma**2)
        near = torch.tanh(x / sigma**2)  # the mean of data that are -1 or 1
        return (x - near) / sigma

    picture, sigmas = torch.tensor([1.0, -1.0, 1.0]), [10 * (number / 30)**2 for number in range(1, 31)]
    found = inverted(picture, sigmas, noise, "eps")
    x = found[sigmas[-1]] * math.sqrt(1 + sigmas[-1]**2)
    for sigma, below in zip(reversed(sigmas), [*reversed(sigmas[:-1]), 0.0]):
        x = x + (below - sigma) * noise(x / math.sqrt(1 + sigma**2), sigma)
    assert torch.allclose(x, picture, atol=0.05)
