"""Tiny models as other systems leave them, built by their own steps and without sidtool: a
tokenizer with tokens added, a resized model, and a map; and their own way to recommend, by
`generate` with a trie of token ids."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from tests.models import SENTENCES, tiny_encoder_decoder, tiny_model, tiny_tokenizer

N_ITEMS = 30


@dataclass(frozen=True)
class Foreign:
    """A model of another system."""

    folder: Path
    map: Path
    tokenizer: Any
    sids: dict[str, tuple[str, ...]]
    """item -> the tokens of its SID"""
    template: str
    """the text of the prompt that the system writes, with {history}"""
    separator: str = ""
    """between the items of a history"""
    item: str = "{sid}"
    """how an item stands in a history"""

    def prompt(self, history: Sequence[str]) -> str:
        """The text of the prompt for a history of items."""
        sids = ("".join(self.sids[item]) for item in history)
        shown = self.separator.join(self.item.replace("{sid}", sid) for sid in sids)
        return self.template.replace("{history}", shown)

    @torch.no_grad()
    def recommend(
        self, history: Sequence[str], k: int
    ) -> tuple[list[tuple[str, ...]], list[float]]:
        """The k best SIDs with their scores, by the system's own road: text, `generate` and a
        dictionary of prefixes."""
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        config = json.loads((self.folder / "config.json").read_text())
        encodes = config.get("is_encoder_decoder", False)
        kind = AutoModelForSeq2SeqLM if encodes else AutoModelForCausalLM
        model = kind.from_pretrained(self.folder)
        ids = self.tokenizer(self.prompt(history), return_tensors="pt")["input_ids"]
        start = 1 if encodes else ids.shape[1]
        following: dict[tuple[int, ...], set[int]] = {}
        paths = {}
        for sid in self.sids.values():
            path = tuple(self.tokenizer.convert_tokens_to_ids(list(sid)))
            paths[path] = sid
            for depth, token in enumerate(path):
                following.setdefault(path[:depth], set()).add(token)
        model.generation_config = GenerationConfig(
            num_beams=k,
            num_return_sequences=k,
            max_new_tokens=len(sid),
            do_sample=False,
            length_penalty=0.0,
            pad_token_id=0,
            decoder_start_token_id=config.get("decoder_start_token_id"),
            return_dict_in_generate=True,
            output_scores=True,
        )
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            prefix_allowed_tokens_fn=lambda _, row: sorted(
                following.get(tuple(row[start:].tolist()), {0})
            ),
        )
        rows = out.sequences[:, start:].tolist()
        return [paths[tuple(row)] for row in rows], out.sequences_scores.tolist()


def random_codes(sizes: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    """(N_ITEMS, levels) distinct codes."""
    keys = np.random.default_rng(seed).choice(int(np.prod(sizes)), N_ITEMS, replace=False)
    return np.stack(np.unravel_index(keys, sizes), axis=1)


def openonerec(folder: Path, architecture: str = "qwen3") -> Foreign:
    """All codes of all levels in order, begin and end token behind them, and a vocabulary that is
    padded to a multiple of 256; the map is a Parquet file of codes."""
    sizes = (16, 16, 16)
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokens = [f"<s_{level}_{code}>" for level in "abc" for code in range(16)]
    tokenizer.add_tokens([*tokens, "<|sid_begin|>", "<|sid_end|>"])
    rows = -(-len(tokenizer) // 256) * 256
    model = tiny_model(architecture, vocab_size=rows, tied=False)
    _save(folder, model, tokenizer)
    codes = random_codes(sizes)
    codes[0] = 15  # the largest code tells the size of a level
    table = pa.table({"pid": range(100, 100 + N_ITEMS), "sid": codes.tolist()})
    pq.write_table(table, folder.with_suffix(".parquet"))
    sids = {
        str(100 + row): tuple(f"<s_{'abc'[level]}_{code}>" for level, code in enumerate(sid))
        for row, sid in enumerate(codes.tolist())
    }
    system = "你是一个智能推荐助手，能够根据用户的浏览历史预测用户可能感兴趣的下一个内容。"
    template = (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
        "根据以下用户浏览记录，请预测用户接下来可能观看的内容：\n{history}/no_think"
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n<|sid_begin|>"
    )
    item = "<|sid_begin|>{sid}<|sid_end|>"
    return Foreign(folder, folder.with_suffix(".parquet"), tokenizer, sids, template, item=item)


def minionerec(
    folder: Path, architecture: str = "qwen2", *, padding: int = 0, others: Sequence[str] = ()
) -> Foreign:
    """Only the used tokens, and `others`, sorted as texts; the model is resized to the tokenizer,
    or keeps `padding` rows behind it."""
    codes = random_codes((40, 12, 30))
    index = _index(folder, codes)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(sorted({token for sid in index.values() for token in sid} | {*others}))
    model = tiny_model(architecture, vocab_size=len(tokenizer) + padding)
    _save(folder, model, tokenizer)
    # the tokenizer of the fixture has a begin token, which it does not put there itself
    template = (
        "<bos>Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request. \n\n"
        "### Instruction:\nCan you predict the next possible item that the user may expect?\n\n"
        "### User Input: \nCan you predict the next possible item the user may expect, given the "
        "following chronological interaction history: {history}\n\n### Response:\n"
    )
    return Foreign(folder, _index_path(folder), tokenizer, index, template, separator=", ")


def lc_rec(folder: Path) -> Foreign:
    """LLaMA with a SentencePiece tokenizer, which puts a begin token and a space before a text;
    four levels."""
    index = _index(folder, random_codes((12, 3, 14, 2)))
    tokenizer = sentencepiece_tokenizer("$A", before="<bos>")
    _split_at(tokenizer, index)
    _save(folder, tiny_model("llama", vocab_size=len(tokenizer), tied=False), tokenizer)
    template = (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nThe user has interacted with items "
        "{history} in chronological order. Can you predict the next possible item that the user "
        "may expect?\n\n### Response:"
    )
    return Foreign(folder, _index_path(folder), tokenizer, index, template, separator=", ")


def letter(folder: Path) -> Foreign:
    """T5, whose tokenizer ends every text; a prompt is the history and nothing else."""
    index = _index(folder, random_codes((12, 3, 14, 2)))
    tokenizer = sentencepiece_tokenizer("$A <eos>")
    _split_at(tokenizer, index)
    _save(folder, tiny_encoder_decoder("t5", vocab_size=len(tokenizer)), tokenizer)
    return Foreign(folder, _index_path(folder), tokenizer, index, "{history}")


def sentencepiece_tokenizer(form: str, before: str = "") -> Any:
    """A BPE tokenizer with the normalizer of LLaMA's and T5's; `form` and `before` are what it puts
    around a text."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    replaced = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence(replaced)
    written = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(written)
    special = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{before} {form}".strip(), special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
    )


def _split_at(tokenizer: Any, index: dict[str, tuple[str, ...]]) -> None:
    """Add the used tokens in sorted order as the slow tokenizers of LLaMA and T5 read them, which
    these systems use: a text is split at them before anything else."""
    used = sorted({token for sid in index.values() for token in sid})
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in used])


def _index(folder: Path, codes: np.ndarray[Any, Any]) -> dict[str, tuple[str, ...]]:
    """Write the index.json of codes beside a folder; item -> tokens."""
    index = {
        str(row): tuple(f"<{'abcd'[level]}_{code}>" for level, code in enumerate(sid))
        for row, sid in enumerate(codes.tolist())
    }
    _index_path(folder).write_text(json.dumps(index))
    return index


def _index_path(folder: Path) -> Path:
    return folder.with_suffix(".index.json")


def _save(folder: Path, model: Any, tokenizer: Any) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
