"""What was checked of a model that another system trained, and what of it a user should know."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from sidtool.integrations.adopt.prompts import WorkedPrompt
from sidtool.model import Checkpoint
from sidtool.model.contract import Contract
from sidtool.model.vocabulary import NO_TOKEN, SidTokens
from sidtool.tokenizer.bundle import Bundle

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")


@dataclass(frozen=True)
class Adoption:
    """What is known of a model before anything is written."""

    checkpoint: Checkpoint
    """the model's files"""
    contract: Contract
    bundle: Bundle
    prompt: WorkedPrompt
    codes_without_token: int
    items_without_token: int
    """active items that can never be recommended, as one of their codes has no token"""
    items: int
    """active items"""
    embedding_rows: int
    padding_rows: int
    """rows behind the last token of the tokenizer"""
    equal_rows: int
    """SID tokens whose embedding row another SID token has, too: they were never trained"""
    sampling: tuple[str, ...]
    """settings of its generation_config.json that prune valid SIDs in other programs"""

    @property
    def tokens(self) -> SidTokens:
        """The ids of the SID tokens."""
        return self.contract.tokens

    @property
    def warnings(self) -> list[str]:
        """What may make the model recommend worse than it does in the system that made it."""
        messages = []
        if self.items_without_token:
            messages.append(
                f"{self.items_without_token} of {self.items} items have a code without a token and "
                "are never recommended"
            )
        if self.equal_rows:
            messages.append(
                f"{self.equal_rows} SID tokens have the embedding row of another one: they were "
                "never trained"
            )
        if not self.prompt.as_text:
            messages.append(
                "the tokenizer reads the text of the prompt as other tokens: it puts spaces where "
                "texts meet SIDs"
            )
        if self.sampling:
            messages.append(
                f"generation_config.json has {', '.join(self.sampling)}: `recommend` ignores them, "
                "`generate` may lose valid SIDs by them"
            )
        return messages

    def to_json(self) -> dict[str, Any]:
        """The figures of the checks, and the prompt."""
        tokens = self.tokens
        return {
            "bundle": self.contract.identity.digest,
            "items": self.items,
            "items_without_token": self.items_without_token,
            "tokens": tokens.number,
            "token_start": tokens.start,
            "token_stop": tokens.stop,
            "layout": "block" if tokens.table is None else "table",
            "codes_without_token": self.codes_without_token,
            "embedding_rows": self.embedding_rows,
            "padding_rows": self.padding_rows,
            "equal_rows": self.equal_rows,
            "prompt": asdict(self.prompt),
            "warnings": self.warnings,
        }


def equal_rows(network: Any, tokens: SidTokens) -> int:
    """The number of SID tokens that share their embedding row with another one."""
    ids = tokens.token_ids[tokens.token_ids != NO_TOKEN]
    rows = network.get_input_embeddings().weight[ids].detach().float().numpy()
    counts = Counter(row.tobytes() for row in rows)
    return sum(count for count in counts.values() if count > 1)


def sampling_settings(network: Any) -> tuple[str, ...]:
    """What of the model's generation settings removes or reweights tokens, as "top_k=20"."""
    settings = network.generation_config
    if settings is None:
        return ()
    neutral = {"temperature": 1.0, "top_p": 1.0, "repetition_penalty": 1.0, "typical_p": 1.0}
    values = {"do_sample": getattr(settings, "do_sample", False) or None}
    for name in _SAMPLING:
        value = getattr(settings, name, None)
        values[name] = None if value == neutral.get(name) else value
    return tuple(f"{name}={value}" for name, value in values.items() if value is not None)
