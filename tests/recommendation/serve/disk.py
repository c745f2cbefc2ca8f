"""A tiny model on disk, bundles that it can and cannot be used with, and a served process."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sidtool.model.contract.folder import read_contract, write_contract
from sidtool.tokenizer.bundle import Bundle
from tests.model.cases import distinct_codes, make_bundle, make_codebook, save_base
from tests.model.contract.cases import trained_model
from tests.models import tiny_model, tiny_tokenizer
from tests.waiting import DEADLOCK

N_ITEMS, N_GROWN = 40, 50


def catalog_bundle(n_items: int = N_ITEMS, *, seed: int = 0, **facts: Any) -> Bundle:
    """The first items of one catalog; more items change no SID of the others. Another `seed` is
    another codebook with other SIDs."""
    ids = [f"b{n:03d}" for n in range(n_items)]
    codes = distinct_codes(N_GROWN, seed)[:n_items]
    return make_bundle(ids, codes, codebook=make_codebook(seed), **facts)


def save_model(folder: Path, bundle: Bundle | None = None, *, seed: int = 0) -> Path:
    """A model on disk with random weights by a seed."""
    tokenizer = tiny_tokenizer()
    network = tiny_model("llama", vocab_size=len(tokenizer), seed=seed)
    base = save_base(folder / "base", network, tokenizer)
    model = trained_model(base, bundle or catalog_bundle(), folder / "model")
    if seed:  # another run of the same training
        contract = read_contract(model)
        stage = contract.stages[-1]
        params = replace(stage.params, run=f"{seed:064x}")
        again = contract.with_stage(replace(stage, params=params))
        write_contract(model, again, bundle or catalog_bundle())
    return model


@dataclass(frozen=True)
class Running:
    """A service in a process of its own."""

    url: str
    process: "subprocess.Popen[str]"
    log: Path

    def get(self, path: str) -> Any:
        """The JSON or text at a path."""
        with urllib.request.urlopen(self.url + path, timeout=DEADLOCK) as answer:
            text = answer.read().decode()
        return json.loads(text) if text.startswith("{") else text

    def post(self, path: str, body: Any, **headers: str) -> Any:
        """The answer to a body."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=DEADLOCK) as answer:
            return json.loads(answer.read())

    def wait_until_ready(self) -> Any:
        """What /readyz says when the service takes calls."""
        end = time.monotonic() + DEADLOCK
        while True:
            try:
                return self.get("/readyz")
            except (urllib.error.URLError, ConnectionError):
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < end, self.log.read_text()
                time.sleep(0.2)


@contextmanager
def running(log: Path, *words: object, env: dict[str, str] | None = None) -> Iterator[Running]:
    """`sidtool serve` with these words on a free port; killed at the end if it still runs."""
    command = [sys.executable, "-m", "sidtool", "serve", *map(str, words), "--port", "0", "--json"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SIDTOOL_")}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**clean, "OMP_NUM_THREADS": "1", **(env or {})},
        ) as process,
    ):
        try:
            line = process.stdout.readline()
            assert line, log.read_text()
            yield Running(json.loads(line)["url"], process, log)
        finally:
            if process.poll() is None:
                process.kill()
