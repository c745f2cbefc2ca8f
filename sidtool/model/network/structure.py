"""What a model is made of: its kind, its positions, and the layers with one row per token.

A causal model has one embedding layer. An encoder-decoder has up to three (shared, encoder and
decoder), which hold one weight or several; its output head is tied to them or not."""

from typing import Any, Literal

from sidtool.base.errors import CompatibilityError, DataError

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
    """The distinct layers that look token ids up. Raises CompatibilityError if an encoder or a
    decoder does not say which is its own."""
    layers = [model.get_input_embeddings()]
    if is_encoder_decoder(model):
        for part in (model.get_encoder(), model.get_decoder()):
            if not hasattr(part, "get_input_embeddings"):
                raise CompatibilityError(
                    f"{type(model).__name__} cannot be used: its {type(part).__name__} does not "
                    "say which layer looks token ids up"
                )
            layers.append(part.get_input_embeddings())
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
    shared_embeddings = model.get_input_embeddings()
    readers = [model.get_encoder().get_input_embeddings()]
    readers += [model.get_decoder().get_input_embeddings(), model.get_output_embeddings()]
    if all(reader.weight is not shared_embeddings.weight for reader in readers):
        shared_embeddings.requires_grad_(False)


def share_embedding_layers(model: Any) -> None:
    """Let encoder and decoder look ids up in the shared layer itself if theirs is the same with the
    same weight: FSDP2 divides a weight in the layers that are known to have it, and accelerate
    knows that layer and the head."""
    if not is_encoder_decoder(model):
        return
    shared_layer = model.get_input_embeddings()
    for part in (model.get_encoder(), model.get_decoder()):
        part_layer = part.get_input_embeddings()
        scales = {getattr(layer, "embed_scale", None) for layer in (shared_layer, part_layer)}
        if (
            part_layer.weight is shared_layer.weight
            and type(part_layer) is type(shared_layer)
            and len(scales) == 1
        ):
            part.set_input_embeddings(shared_layer)


def grow_vocabulary(model: Any, n_rows: int) -> None:
    """Give the layers `n_rows` rows, in place; new ones are random.

    Layers that share a weight still do, and others still do not. (transformers' own function ties
    the head of an untied T5, whose configuration always says that it is tied, and replaces the
    separate embeddings of an untied BART by one.)

    Raises CompatibilityError if a model of the grown configuration has other shapes."""
    import torch

    if is_encoder_decoder(model):
        _grow_halves(model, n_rows)
    else:
        model.resize_token_embeddings(n_rows, mean_resizing=False)
    with torch.device("meta"):
        expected = type(model)(model.config).state_dict()
    for name, weight in model.state_dict().items():
        if name in expected and expected[name].shape != weight.shape:
            raise CompatibilityError(
                f"a {type(model).__name__} with more tokens would not load: {name} has the shape "
                f"{tuple(weight.shape)}, and {tuple(expected[name].shape)} by its configuration"
            )


def _grow_halves(model: Any, n_rows: int) -> None:
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
