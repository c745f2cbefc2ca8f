"""A small bundle, a base model on disk, and the model that has its tokens. Each is made once, and a
test gets a copy of the folder."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidtool.model.extend import extend_model
from sidtool.tokenizer.bundle.bundle import Bundle
from tests.model.cases import distinct_codes, make_bundle, make_codebook, save_base
from tests.models import tiny_model, tiny_tokenizer


def shop() -> Bundle:
    ids = [f"item{n}" for n in range(20)]
    return make_bundle(ids, distinct_codes(20), codebook=make_codebook())


@pytest.fixture
def bundle() -> Bundle:
    return shop()


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied Llama whose embedding matrix is exactly as long as its tokenizer."""
    tokenizer = tiny_tokenizer(chat=True)
    model = tiny_model("llama", vocab_size=len(tokenizer))
    return save_base(tmp_path_factory.mktemp("models") / "base", model, tokenizer)


@pytest.fixture(scope="session")
def made_folder(base_folder: Path) -> Path:
    extend_model(base_folder, shop(), base_folder.parent / "made")
    return base_folder.parent / "made"


@pytest.fixture
def refusal(bundle: Bundle, tmp_path: Path) -> Callable[..., Any]:
    """The error of one line by which a base is refused before anything is written."""

    def of(error: type[Exception], message: str, base: Path | str, bundle: Bundle = bundle) -> Any:
        with pytest.raises(error, match=message) as caught:
            extend_model(str(base), bundle, tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("out*"))
        return caught.value

    return of


@pytest.fixture
def base(base_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base_folder, tmp_path / "base"))


@pytest.fixture
def made(made_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_folder, tmp_path / "made"))
