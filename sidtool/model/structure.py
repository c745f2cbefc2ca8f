"""What a model is made of: its kind, its positions, the layers with one row per token, and the SID
vocabulary in its tokenizer.

A causal model has one embedding layer. An encoder-decoder has up to three (shared, encoder and
decoder), which hold one weight or several; its output head is tied to them or not.

SID tokens are added tokens that are not special, so `decode(..., skip_special_tokens=True)` keeps
them. They are not normalized and strip no space beside them, so text and tokens convert without
loss, and a prompt has the same tokens with and without its answer. A space right before a SID would
therefore be a token (`Ġ`), so templates put none there."""

from typing import Any, Literal

from sidtool.base.errors import CompatibilityError, DataError
from sidtool.model.prompt.tokens import NO_TOKEN, FieldTokens, SidTokens, UserTokens
from sidtool.tokenizer.sid import SidSpace

ModelKind = Literal["causal", "encoder-decoder"]


_POSITIONS = ("max_position_embeddings", "max_encoder_position_embeddings")
"""Keys of configurations for the number of positions; the second is LED's."""


def model_kind(config: Any) -> ModelKind:
    """Whether a model of this configuration reads prompt and answer as one sequence, or the prompt
    by an encoder and the answer by a decoder."""
    return "encoder-decoder" if getattr(config, "is_encoder_decoder", False) else "causal"


def is_encoder_decoder(model: Any) -> bool:
    """Whether a model has an encoder and a decoder."""
    return model_kind(model.config) == "encoder-decoder"


def decoder_start_id(model: Any) -> int:
    """The token id that a decoder reads before its answer.

    Raises DataError if the model's configuration has none."""
    for config in (model.config, model.generation_config):
        token_id = getattr(config, "decoder_start_token_id", None)
        if token_id is not None:
            return int(token_id)
    raise DataError(
        f"{type(model).__name__} has no decoder_start_token_id in its configuration",
        hint="add it to its config.json; for a T5 it is the pad token's id",
    )


def embedding_layers(model: Any) -> list[Any]:
    """The distinct layers that look token ids up."""
    layers = [model.get_input_embeddings()]
    if is_encoder_decoder(model):
        layers += [
            part.get_input_embeddings() for part in (model.get_encoder(), model.get_decoder())
        ]
    return list({id(layer): layer for layer in layers}.values())


def vocabulary_layers(model: Any) -> list[Any]:
    """The embedding layers, then the output head."""
    return [*embedding_layers(model), model.get_output_embeddings()]


def vocabulary_weights(model: Any) -> list[Any]:
    """The distinct weights (rows, width) of these layers, in their order."""
    weights = [layer.weight for layer in vocabulary_layers(model)]
    return list({id(weight): weight for weight in weights}.values())


def freeze_unread_embeddings(model: Any) -> None:
    """Freeze the shared embeddings of an encoder-decoder that has others, as an untied BART does:
    nothing reads them, and DDP waits for a gradient of every weight that is not frozen."""
    shared = model.get_input_embeddings()
    readers = [model.get_encoder().get_input_embeddings()]
    readers += [model.get_decoder().get_input_embeddings(), model.get_output_embeddings()]
    if all(reader.weight is not shared.weight for reader in readers):
        shared.requires_grad_(False)


def share_embedding_layers(model: Any) -> None:
    """Let encoder and decoder look ids up in the shared layer itself if theirs is the same with the
    same weight: FSDP2 divides a weight in the layers that are known to have it, and accelerate
    knows that layer and the head."""
    if not is_encoder_decoder(model):
        return
    shared = model.get_input_embeddings()
    for part in (model.get_encoder(), model.get_decoder()):
        rows = part.get_input_embeddings()
        scales = {getattr(layer, "embed_scale", None) for layer in (shared, rows)}
        if rows.weight is shared.weight and type(rows) is type(shared) and len(scales) == 1:
            part.set_input_embeddings(shared)


def logits_bias(model: Any) -> Any | None:
    """What is added to the logits, (..., rows): the bias of the head, or BART's own buffer; None if
    there is neither."""
    bias = getattr(model.get_output_embeddings(), "bias", None)
    return bias if bias is not None else getattr(model, "final_logits_bias", None)


def grow_vocabulary(model: Any, n_rows: int) -> None:
    """Give the layers `n_rows` rows, in place; new ones are random.

    Layers that share a weight still do, and others still do not. (transformers' own function ties
    the head of an untied T5, whose configuration always says that it is tied, and replaces the
    separate embeddings of an untied BART by one.)"""
    if not is_encoder_decoder(model):
        model.resize_token_embeddings(n_rows, mean_resizing=False)
        return
    import torch

    grown = {}
    for weight in vocabulary_weights(model):
        n_new = n_rows - len(weight)
        noise = torch.randn(n_new, weight.shape[1]) * weight.detach().float().std()
        values = torch.cat([weight.detach(), noise.to(weight.dtype)])
        grown[id(weight)] = torch.nn.Parameter(values, requires_grad=weight.requires_grad)
    for layer in vocabulary_layers(model):
        layer.weight = grown[id(layer.weight)]
        for size in ("num_embeddings", "out_features"):
            if hasattr(layer, size):
                setattr(layer, size, n_rows)
    if hasattr(model, "final_logits_bias"):
        model._resize_final_logits_bias(n_rows)
    # T5Gemma has a configuration for each half
    for part in (model, model.get_encoder(), model.get_decoder()):
        if hasattr(part.config, "vocab_size"):
            part.config.vocab_size = n_rows


def max_positions(model: Any) -> int | None:
    """The most tokens that a model reads, by its configuration; None if it sets no limit."""
    config = getattr(model, "config", None)
    values = [getattr(config, name, None) for name in _POSITIONS]
    return next((value for value in values if type(value) is int and value > 0), None)


def check_positions(model: Any, n_prompt: int, n_answer: int) -> None:
    """Raise DataError if a prompt of `n_prompt` tokens is longer than a model reads before an
    answer of `n_answer`."""
    limit = max_positions(model)
    if limit is None:
        return
    lengths = {"a prompt with its answer": n_prompt + n_answer}
    if is_encoder_decoder(model):
        # the decoder begins with a token of its own
        lengths = {"a prompt": n_prompt, "an answer": n_answer + 1}
    for name, length in lengths.items():
        if length > limit:
            raise DataError(f"{name} has {length} tokens, the model has {limit} positions")


def add_sid_tokens(tokenizer: Any, space: SidSpace) -> SidTokens:
    """Add all tokens of a space to a tokenizer, in place, and return their ids.

    Raises CompatibilityError if the tokenizer has one of them already or does not number them
    consecutively after its other tokens."""
    from transformers import AddedToken

    vocabulary = tokenizer.get_vocab()
    present = [token for token in space.tokens if token in vocabulary]
    if present:
        raise CompatibilityError(
            f"the tokenizer already has {len(present)} of the {len(space.tokens)} SID tokens: "
            f"{present[0]} has id {vocabulary[present[0]]}",
            hint="extend a model without them, or build the bundle with another token template",
        )
    added = [AddedToken(token, normalized=False, special=False) for token in space.tokens]
    tokenizer.add_tokens(added)
    tokens = SidTokens(space, int(tokenizer.convert_tokens_to_ids(space.tokens[0])))
    check_token_ids(tokenizer, tokens)
    last_token, last_id = max(vocabulary.items(), key=lambda pair: pair[1])
    if last_id >= tokens.start:
        raise CompatibilityError(
            f"{last_token!r} has id {last_id}, but SID tokens start at id {tokens.start}"
        )
    return tokens


def add_block(tokenizer: Any, block: UserTokens | FieldTokens, option: str) -> None:
    """Add tokens that stand for users or for values of fields, in place.

    They are special: no text of a catalog contains them, and decoding drops them. Raises
    CompatibilityError if the tokenizer has one of them already, which names the option."""
    from transformers import AddedToken

    vocabulary = tokenizer.get_vocab()
    for text in block.texts:
        if text in vocabulary:
            raise CompatibilityError(
                f"the tokenizer already has the token {text}, with id {vocabulary[text]}",
                hint=f"extend a model without it, or leave {option} out",
            )
    added = [AddedToken(text, normalized=False, special=True) for text in block.texts]
    tokenizer.add_tokens(added, special_tokens=True)
    check_block(tokenizer, block)


def check_block(tokenizer: Any, block: UserTokens | FieldTokens | None) -> None:
    """Raise CompatibilityError unless the tokenizer gives every token of a block its id."""
    if block is None:
        return
    added = tokenizer.get_added_vocab()
    for expected, text in enumerate(block.texts, start=block.start):
        if added.get(text) != expected:
            raise CompatibilityError(
                f"the tokenizer gives {text} the id {added.get(text)}, not {expected}"
            )


def check_token_ids(tokenizer: Any, tokens: SidTokens) -> None:
    """Raise CompatibilityError unless the tokenizer gives every SID token the id that `tokens`
    computes."""
    added = tokenizer.get_added_vocab()
    for expected, token in zip(tokens.token_ids.tolist(), tokens.space.tokens, strict=True):
        if expected != NO_TOKEN and added.get(token) != expected:
            raise CompatibilityError(
                f"the tokenizer gives {token} the id {added.get(token)}, its contract says "
                f"{expected}",
                hint="a model saved without its tokenizer loses the added tokens",
            )


def check_embedding_rows(model: Any, stop: int) -> None:
    """Raise CompatibilityError unless embeddings and output head have a row for every token id
    below `stop`."""
    layers = [("embedding", layer) for layer in embedding_layers(model)]
    layers.append(("output", model.get_output_embeddings()))
    for name, layer in layers:
        n_rows = layer.weight.shape[0]
        if n_rows < stop:
            raise CompatibilityError(
                f"the model has {n_rows} {name} rows, but its added tokens need {stop}"
            )
