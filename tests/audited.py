"""A program that runs the commands of the road, and writes to FOLDER/audit.json what they did
beyond files: network, processes, pickles, and code from outside of Python, its packages and
sidtool.

    python -P -m tests.audited FOLDER
"""

import json
import sys
import sysconfig
from pathlib import Path
from typing import Any

EVENTS = ("os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "pickle.find_class")
EVENTS += ("pty.spawn", "subprocess.Popen", "urllib.Request")
LOCAL = ("socket.__new__", "socket.bind", "socket.gethostname")
CODE_FOLDERS = (
    *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    *(path for path in sys.path if path.endswith("site-packages")),
    str(Path(__file__).resolve().parents[1] / "sidtool"),
    str(Path(__file__).resolve().parents[1] / "tests"),
)


class Audit:
    """Collects events of the interpreter while it is active."""

    def __init__(self) -> None:
        self.active = False
        self.seen: dict[str, list[str]] = {}
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "exec":
            name = getattr(arguments[0], "co_filename", "")
            if name.startswith("/") and not name.startswith(CODE_FOLDERS):
                self._add(event, name)
        elif event in EVENTS or (event.startswith("socket.") and event not in LOCAL):
            self._add(event, str(arguments)[:200])

    def _add(self, event: str, what: str) -> None:
        self.seen.setdefault(event, []).append(what)


def plant_code(folder: Path) -> None:
    """Put code beside the files of a model whose configuration names it; it leaves a mark if it
    runs."""
    mark = folder.with_name(folder.name + ".ran")
    code = f"open({str(mark)!r}, 'w').close()\n\n\nclass Evil: pass\n"
    for name in ("evil_module.py", "modeling.py", "sitecustomize.py", "custom_generate.py"):
        (folder / name).write_text(code)
    config = json.loads((folder / "config.json").read_text())
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    config["auto_map"] = dict.fromkeys(names, "evil_module.Evil")
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["auto_map"] = {"AutoTokenizer": ["evil_module.Evil", "evil_module.Evil"]}
    path.write_text(json.dumps(settings))


def main(folder: Path) -> None:
    """Walk the road in `folder` and write the events of each part."""
    from tests.cli.road import TRAINING, done, refused, walk
    from tests.encoders import tiny_encoder

    for name in ("bert", "encoder"):
        (folder / name).mkdir()
    encoder = tiny_encoder(folder / "bert", folder / "encoder")
    audit = Audit()
    audit.active = True
    road = walk(folder)
    plant_code(road.base)
    plant_code(encoder)
    bundle = folder / "embedded.zarr"
    levels = ("--levels", "4x4x8", "--embeddings", road.vectors)
    done("build-codebook", road.items, "-o", bundle, *levels[:2], "--encoder", encoder)
    done("encode", bundle, "a red lamp")
    done("extend-model", road.base, road.bundle, "-o", folder / "planted")
    done("train", road.model, road.examples, "-o", folder / "lora", "--stage", "lora", *TRAINING)
    done("merge", folder / "lora", "-o", folder / "merged")
    done("recommend", folder / "merged", "--history", "b001,b002", "-k", 3)
    done("evaluate", road.tuned, road.split)
    done("verify", bundle)
    (folder / "lora" / "adapter_model.safetensors").unlink()
    refused(3, "merge", folder / "lora", "-o", folder / "again")
    refused(1, "extend-model", "org/name", road.bundle, "-o", folder / "again")
    refused(1, "encode", bundle, "a lamp", "--encoder", "org/name")
    audit.active = False
    ran = sorted(path.name for path in folder.glob("*.ran"))
    (folder / "audit.json").write_text(json.dumps({"events": audit.seen, "ran": ran}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
