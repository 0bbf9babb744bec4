"""A process that saves references until it is killed: ``python -m tests.stores.saving FOLDER``, and what it saves.

It imports once and forks for every command it reads: importing PyTorch takes longer than all the saving. Commands:

    save SEED COUNT     a fork saves COUNT references, every second one as "hero", replaced, the others as new "more"
    limit BYTES         a fork saves "big" where no file may grow beyond BYTES
    wait                for all forks to end

Every command is answered in one line: the process's number, the sentence of the refusal, or "done".
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from lib_refdrop.references.reference import FORMAT_VERSION, Reference
from lib_refdrop.stores import DiskStore
from lib_refdrop.words import StoreProblem

COUNT, NUMBERS = 24, 4096


def tensors_of(seed: int) -> dict[str, torch.Tensor]:
    """What the reference of this number holds."""
    return {f"base/0000/output.{n}.0/cond/h": (torch.arange(NUMBERS) * 31.0 + seed * 1009 + n).double().view(64, -1)
            for n in range(COUNT)}


def is_whole(reference: Reference) -> bool:
    """Whether a reference is, bit for bit, one that was saved."""
    expected = tensors_of(reference.manifest["seed"])
    return set(reference.features) == set(expected) and all(
        torch.equal(reference.features[name], tensor) for name, tensor in expected.items())


def save(store: DiskStore, seed: int, name: str, replace: bool = False) -> str:
    """The name it got."""
    writer = store.writer(name, replace, expected=COUNT * NUMBERS * 8)
    for each, tensor in tensors_of(seed).items():
        writer.add(each, tensor)
    manifest = {"format": FORMAT_VERSION, "lineage": "x", "passes": {"base": [[1.0, 0]]}, "given": {}, "seed": seed}
    return writer.commit(manifest).name


def _save_many(folder: Path, seed: int, count: int) -> None:
    for number in range(seed, seed + count):
        hero = number % 2 == 0
        save(DiskStore(folder), number, "hero" if hero else "more", replace=hero)


def _save_limited(folder: Path, limit: int) -> str:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        return "saved " + save(DiskStore(folder), 1, "big")
    except StoreProblem as problem:
        return str(problem)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        command, *numbers = line.split()
        if command == "wait":
            while True:
                try:
                    os.wait()
                except ChildProcessError:
                    break
            print("done", flush=True)
            continue
        child = os.fork()
        if not child:
            if command == "limit":
                print(_save_limited(folder, int(numbers[0])), flush=True)
            else:
                print(os.getpid(), flush=True)
                _save_many(folder, *map(int, numbers))
            os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
