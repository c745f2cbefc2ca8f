"""Measure how long xgrammar takes to compile a grammar of all SIDs, which vLLM's structured outputs
do in each beam search.

    .venv-engines/bin/python benchmarks/grammar.py > RESULT.json

Four levels of 256 codes, a vocabulary of 1,600 tokens, one thread, no cache; CPU seconds."""

import argparse
import json
import time
from importlib.metadata import version

from decoder_cases import LEVELS, catalog
from environment import environment

from sidtool.tokenizer.sid import SidSpace

TEXT = 500


def main() -> None:
    """Print the CPU seconds and the megabytes of the grammars of 2,000 to 20,000 SIDs."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    import xgrammar
    from vllm.v1.structured_output.utils import choice_as_grammar

    space = SidSpace(LEVELS, begin=None, end=None)
    words = ["<unk>", "<eos>", *[f"w{number}" for number in range(2, TEXT)]]
    info = xgrammar.TokenizerInfo([*words, *space.tokens], vocab_size=1600, stop_token_ids=1)
    measured = {}
    for n_items in (2_000, 4_000, 10_000, 20_000):
        grammar = choice_as_grammar([space.spell(codes) for codes in catalog(n_items).tolist()])
        compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        start = time.process_time()
        compiled = compiler.compile_grammar(grammar)
        seconds = time.process_time() - start
        measured[str(n_items)] = {"seconds": seconds, "megabytes": compiled.memory_size_bytes / 1e6}
    result = {"items": measured, "xgrammar": version("xgrammar"), **environment()}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
