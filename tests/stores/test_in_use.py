"""A file that says what a model cannot use is a problem of that file, told as one; the picture goes on without."""

import struct

import pytest
import torch

from lib_refdrop.hosts.diffusers import attached
from lib_refdrop.model.rows import Row
from lib_refdrop.references.replay import Replays
from lib_refdrop.stores import DiskStore
from lib_refdrop.techniques.reference.guidance import Guidance
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.techniques.technique import Technique
from lib_refdrop.words import Interrupted, ReferenceProblem, StoreProblem

from ..fuzz.files import SmallModel
from ..fuzz.forging import Raw


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return SmallModel()


class Told(list):
    """The problems that a pass tells of."""

    def __bool__(self):
        return True

    def __call__(self, technique, problem):
        self.append(problem)


def seed_of(model, what):
    """A forged file by how it keeps its features."""
    found = {}
    for forged in model.seeds:
        sites = forged.manifest["kept"]["sites"]
        found.setdefault(next(iter(sites.get("base", sites)), "tiny"), forged)
    return found[what]


def sentence(model, forged, tmp_path):
    """What is said of a file in a generation; its picture is the plain one as soon as it is said."""
    path = forged.write(tmp_path / "hero.safetensors")
    told = Told()
    with DiskStore(tmp_path).using("hero") as reference:
        sampling_pass = SamplingPass([Guidance([(reference, 0.4)], model.lineage)], told)
        picture = model.draw(sampling_pass, seed=7)
        assert sampling_pass.finish() == []
    assert torch.isfinite(picture).all() and len(told) == 1 and sampling_pass.problem is told[0]
    assert isinstance(told[0], ReferenceProblem) and path.exists()
    return str(told[0])


@pytest.mark.parametrize("what, part", [("hidden own", "h"), ("hidden fp16", "h"), ("kv own", "k")])
@pytest.mark.parametrize("width", [1, 8, 17, 64])
def test_features_of_another_width_than_the_layers(model, tmp_path, what, part, width):
    forged = seed_of(model, what)
    tensors = {}
    for name, raw in forged.tensors.items():
        if name.count("/") == 4:
            raw = Raw.zeros(raw.dtype, raw.shape[0], width)
        tensors[name] = raw
    forged = type(forged)(forged.manifest, tensors, forged.metadata)
    assert sentence(model, forged, tmp_path).startswith(
        "Reference 'hero' has features that this model's layer input.1.0 cannot take (")


@pytest.mark.parametrize("what, numbers, said", [
    ("x", Raw.zeros("F32", 3, 8, 8), "in another form"), ("x", Raw.zeros("F32", 8, 8), "in another form"),
    ("context", Raw.zeros("F32", 5, 15), "in another form"), ("x", Raw.zeros("F32", 4, 1, 1), None),
    ("x", Raw("F32", [4, 8, 8], struct.pack("<256f", *[float("nan")] * 256)), "holds numbers that no model has"),
    ("t", Raw("F32", [1], struct.pack("<f", float("inf"))), "holds numbers that no model has"),
])
def test_a_trajectory_that_the_model_cannot_be_called_on(model, tmp_path, what, numbers, said):
    forged = seed_of(model, "tiny")
    tensors = {name: numbers if name.split("/")[-1 if what == "context" else -2] == what else raw
               for name, raw in forged.tensors.items()}
    forged = type(forged)(forged.manifest, tensors, forged.metadata)
    if said is None:
        path = forged.write(tmp_path / "hero.safetensors")
        assert torch.isfinite(model.use(path)[0]).all()
    else:
        told = sentence(model, forged, tmp_path)
        assert said in told and "'hero'" in told


def test_a_model_that_makes_infinite_numbers_of_a_trajectory_is_told_with_the_reference(model, tmp_path):
    """What is said when a save meets them, "this generation was not saved", is no answer here."""
    path = seed_of(model, "tiny").write(tmp_path / "hero.safetensors")
    weight = model.unet.time_embedding.linear_2.weight
    before, told = weight.data.clone(), Told()

    class Spoiling(Replays):
        def progress(self, done, total):
            weight.data.copy_(before) if done == total else weight.data.fill_(float("inf"))

    with DiskStore(tmp_path).using(path.stem) as reference:
        sampling_pass = SamplingPass([Guidance([(reference, 0.4)], model.lineage, replays=Spoiling())],
                                     told)
        try:
            model.draw(sampling_pass, seed=7)
        finally:
            weight.data.copy_(before)
    assert len(told) == 1
    assert str(told[0]).startswith("The trajectory of reference 'hero' gives numbers here that are not finite")


def test_an_error_of_any_kind_in_a_replay_is_one_of_the_reference(model, tmp_path):
    path = seed_of(model, "tiny").write(tmp_path / "hero.safetensors")

    def fail(error):
        def hook(module, args):
            if sampling_pass.replaying:
                raise error
        return model.unet.conv_in.register_forward_pre_hook(hook)

    for error in (IndexError("timestep 5000\nis beyond 1000"), KeyError("y"), TypeError("no number")):
        told = Told()
        with DiskStore(tmp_path).using(path.stem) as reference:
            sampling_pass = SamplingPass([Guidance([(reference, 0.4)], model.lineage)], told)
            handle = fail(error)
            try:
                model.draw(sampling_pass, seed=7)
            finally:
                handle.remove()
        assert len(told) == 1 and "of reference 'hero' could not be replayed here" in str(told[0])
        assert "\n" not in str(told[0])


def raised(error):
    raise error


OUT_OF_MEMORY = {
    "CUDA": lambda *_: raised(torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")),
    "CPU": lambda *_: torch.empty(2**50),  # really: more than any machine has
    "CPU on Windows": lambda *_: raised(RuntimeError(
        "[enforce fail at alloc_cpu.cpp:116] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 B."
    )),
    "MPS": lambda *_: raised(RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB, max allowed: 9.07 GB).")),
    "DirectML": lambda *_: raised(RuntimeError("Could not allocate tensor with 9 bytes. There is not enough GPU video "
                                               "memory available!")),
    "Python": lambda *_: raised(MemoryError()),
}


@pytest.mark.parametrize("where", ["decode", "a layer's projection", "reading the file"])
@pytest.mark.parametrize("device", OUT_OF_MEMORY)
def test_memory_that_runs_out_in_a_layer_is_told_as_that(model, tmp_path, monkeypatch, device, where):
    path, told = seed_of(model, "hidden own").write(tmp_path / "hero.safetensors"), Told()
    run_out = OUT_OF_MEMORY[device]
    if where == "reading the file" and device in ("CUDA", "MPS", "DirectML"):
        pytest.skip("a file is read into the CPU's memory")
    place = {"decode": ("lib_refdrop.techniques.reference.serving.decode", run_out),
             "a layer's projection": ("lib_refdrop.hosts.hooked_layer.HookedLayer.project", run_out),
             "reading the file": ("lib_refdrop.stores.reading.zlib.crc32", run_out)}[where]
    with DiskStore(tmp_path).using(path.stem) as reference:
        sampling_pass = SamplingPass([Guidance([(reference, 0.4)], model.lineage)], told)
        monkeypatch.setattr(*place)
        model.draw(sampling_pass, seed=7)
        monkeypatch.undo()
    assert [type(each) for each in told] == [StoreProblem]
    assert "There is not enough memory to guide this generation" in str(told[0])


@pytest.mark.parametrize("device", OUT_OF_MEMORY)
def test_memory_that_runs_out_in_a_replay_is_no_problem_of_the_reference(model, tmp_path, device):
    path, told = seed_of(model, "tiny").write(tmp_path / "hero.safetensors"), Told()

    def no_memory(module, args):
        if sampling_pass.replaying:
            OUT_OF_MEMORY[device]()

    with DiskStore(tmp_path).using(path.stem) as reference:
        sampling_pass = SamplingPass([Guidance([(reference, 0.4)], model.lineage)], told)
        handle = model.unet.conv_in.register_forward_pre_hook(no_memory)
        try:
            model.draw(sampling_pass, seed=7)
        finally:
            handle.remove()
    assert isinstance(told[0], StoreProblem)
    assert "not enough memory" in str(told[0]) and "trajectory" not in str(told[0])


class Kept(Replays):
    """Replays that tell what was kept, and may be stopped."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.stop_at = stop_at

    def progress(self, done, total):
        if done == self.stop_at:
            raise Interrupted("The user has seen enough.")


def test_a_replay_is_kept_only_when_it_is_whole(model, tmp_path):
    """A reference with a NaN in one of its latents, used twice: the second time must not find half a replay."""
    forged = seed_of(model, "tiny")
    tensors = dict(forged.tensors)
    tensors["base/0002/x/cond"] = Raw("F32", [4, 8, 8], struct.pack("<256f", *[0.5] * 255, float("nan")))
    path = type(forged)(forged.manifest, tensors, forged.metadata).write(tmp_path / "hero.safetensors")
    replays = Kept()
    for _ in range(2):
        with pytest.raises(ReferenceProblem, match="'hero' is damaged.*base/0002/x/cond"):
            use(model, path, replays)
        assert not replays._kept
    forged.write(path)
    with pytest.raises(Interrupted):
        use(model, path, Kept(stop_at=3))
    use(model, path, replays)
    assert len(replays._kept) == 1


def use(model, path, replays):
    with DiskStore(path.parent).using(path.stem) as reference:
        sampling_pass = SamplingPass([Guidance([(reference, 0.4)], model.lineage, replays=replays)])
        picture = model.draw(sampling_pass, seed=7)
        sampling_pass.finish()
        return picture


def test_files_of_one_name_do_not_share_a_replay(model, tmp_path):
    """Without the id that newer ones have, and with the same one: what counts is what is in them."""
    older = seed_of(model, "tiny")
    other = {**older.tensors, "base/0000/x/cond": Raw("F32", [4, 8, 8], struct.pack("<256f", *[0.5] * 256))}
    for ident in (None, "same"):
        replays, pictures = Kept(), []
        for number, tensors in enumerate((older.tensors, other, older.tensors)):
            folder = tmp_path / f"{ident}-{number}"
            folder.mkdir()
            manifest = {key: value for key, value in older.manifest.items() if key != "id"}
            manifest |= {"id": ident} if ident else {}
            forged = type(older)(manifest, tensors, older.metadata)
            pictures.append(use(model, forged.write(folder / "hero.safetensors"), replays))
        assert len(replays._kept) == 2 and not torch.equal(pictures[0], pictures[1])
        assert torch.equal(pictures[0], pictures[2])


def test_the_first_problem_of_a_pass_is_the_one_that_is_told(model):
    """A damaged reference makes the host stop; that its pictures were then interrupted is no news."""
    class Damaged(Technique):
        def call(self, call):
            raise ReferenceProblem("Reference 'hero' is damaged.")

    class Late(Damaged):
        def call(self, call):
            raise Interrupted("The generation was interrupted.")

    for techniques in ([Damaged(), Late()], [Late(), Damaged()]):
        sampling_pass = SamplingPass(techniques)
        rows = [Row("uncond"), Row("cond")]
        with attached(model.unet, sampling_pass, lambda batch, rows=rows: rows, model._alphas), torch.no_grad():
            model.unet(torch.zeros(2, 4, 8, 8), torch.tensor(500.0), encoder_hidden_states=torch.zeros(2, 5, 16))
        with pytest.raises(ReferenceProblem, match="'hero' is damaged"):
            sampling_pass.finish()
