"""A CLIP tokenizer in which every word of the captions is one token."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from .characters import WORDS

START, END = "<|startoftext|>", "<|endoftext|>"


def new_tokenizer(folder: Path) -> CLIPTokenizer:
    """Writes ``vocab.json`` and ``merges.txt`` into ``folder`` and returns the 77-token tokenizer made of them.

    Printable ASCII is the alphabet, so any English prompt tokenizes; words outside the captions fall into pieces.
    """
    alphabet = [chr(code) for code in range(0x21, 0x7F)]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=2000, min_frequency=1, initial_alphabet=alphabet, show_progress=False,
                                  end_of_word_suffix="</w>")
    bpe.train_from_iterator([" ".join(WORDS)] * 2 + [" ".join(alphabet)], trainer)
    learned = json.loads(bpe.to_str())["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in learned["merges"]]
    tokens = alphabet + [letter + "</w>" for letter in alphabet]
    tokens += [token for token in ("".join(pair.split(" ")) for pair in merges) if token not in tokens]
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    return load_tokenizer(folder)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token=END, bos_token=START,
                         eos_token=END, pad_token=END, model_max_length=77)
