"""What a model's output is, and that a call which is over can be made again in a later one: inversion needs both."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from lib_refdrop.hosts.a1111 import _prediction
from lib_refdrop.hosts.diffusers import prediction_of as of_scheduler
from lib_refdrop.hosts.forge import prediction_of
from lib_refdrop.model.layer import ModelCall
from lib_refdrop.techniques.technique import Technique

from .conftest import watched
from .tiny import UNet, a1111, forge, sample_a1111, sample_forge


@pytest.mark.parametrize("told, prediction", [
    ("epsilon", "eps"), ("eps", "eps"), ("v_prediction", "v"), ("const", "flow"), ("edm", "")])
def test_forge_tells_by_name(told: str, prediction: str) -> None:
    assert prediction_of(SimpleNamespace(predictor=SimpleNamespace(prediction_type=told))) == prediction


def test_reforge_tells_by_class() -> None:
    """``ModelSampling(ModelSamplingDiscrete, V_PREDICTION)``; its X0 is an EPS, its EDM a V_PREDICTION."""
    EPS = type("EPS", (), {})
    V = type("V_PREDICTION", (EPS,), {})
    for parent, prediction in ((EPS, "eps"), (V, "v"), (type("EDM", (V,), {}), ""), (type("X0", (EPS,), {}), ""),
                               (type("CONST", (), {}), "flow"), (object, "")):
        model = SimpleNamespace(model_sampling=type("ModelSampling", (parent,), {})())
        assert prediction_of(model) == prediction


@pytest.mark.parametrize("told, prediction", [("eps", "eps"), ("v", "v"), ("x0", "")])
def test_automatic1111_tells_of_the_model(told: str, prediction: str) -> None:
    assert _prediction(SimpleNamespace(parameterization=told)) == prediction
    assert _prediction(SimpleNamespace()) == ""


def test_diffusers_tell_by_the_scheduler() -> None:
    named = {"epsilon": "eps", "v_prediction": "v", "sample": ""}
    assert {name: of_scheduler(DDIMScheduler(prediction_type=name)) for name in named} == named
    assert of_scheduler(FlowMatchEulerDiscreteScheduler()) == "flow" and of_scheduler(EDMEulerScheduler()) == ""


class Again(Technique):
    """Makes the first call again in each later one."""

    def __init__(self) -> None:
        self.first: ModelCall | None = None
        self.outputs: list[torch.Tensor] = []
        self.predictions: set[str] = set()

    def call(self, call: ModelCall) -> None:
        self.first = self.first or call
        self.predictions.add(call.host.prediction)
        if call is not self.first:
            self.outputs.append(self.first.replay(self.first.host.inputs(1), lambda *_: None, lambda *_: None))


@pytest.mark.parametrize("host", ["a1111", "forge"])
def test_a_call_can_be_made_again_in_a_later_one_and_gives_its_output(unet: UNet, host: str) -> None:
    p, sample = (a1111(unet), sample_a1111) if host == "a1111" else (forge(unet, "v_prediction"), sample_forge)
    p.sd_model.parameterization = "v"
    words = ["pirate", "king"]
    plain, made = sample(p, words), []
    handle = unet.register_forward_hook(lambda module, args, output: made.append(output.clone()))
    sample(p, words)
    handle.remove()
    again = Again()
    assert torch.equal(watched(p, lambda: sample(p, words), again)[0], plain)
    assert again.predictions == {"v"} and len(again.outputs) == 2
    for output in again.outputs:
        assert output.shape[0] == 1 and torch.allclose(output[0], made[0][1], atol=1e-6)
