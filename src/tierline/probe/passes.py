"""The passes that a model is observed in, at chosen sizes: what is fed to it depends on what it is."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from tierline.errors import InputError
from tierline.probe.observe import Observer, Seen
from tierline.probe.seams import installed, quiet, replaced
from tierline.probe.state_space import scans_seen

Kind = Literal["decoder", "encoder", "encoder_decoder", "vision", "composed", "dual", "other"]
PassName = Literal["vision", "encode", "prefill", "decode"]
GRID = 16  # patches per side of the image that models of any image size are shown


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes that a set of passes runs at; all are different primes, so that counts factor into them."""

    batch: int
    tokens: int
    context: int
    images: int
    source_tokens: int


SETS = (
    Sizes(batch=3, tokens=13, context=19, images=5, source_tokens=23),
    Sizes(batch=2, tokens=17, context=29, images=7, source_tokens=31),
)


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass showed: its operations in order, at these values of the extent variables."""

    name: PassName
    values: Mapping[str, int]
    seen: tuple[Seen, ...]
    unnamed: tuple[str, ...]


def kind_of(model: PreTrainedModel) -> Kind:
    """Return what sort of model this is, from its config, its main input and the methods it has."""
    config = model.config
    if config.is_encoder_decoder:
        return "encoder_decoder"
    if hasattr(model, "get_text_features") and hasattr(model, "get_image_features"):
        return "dual"
    if hasattr(model, "get_image_features") or hasattr(getattr(model, "model", None), "get_image_features"):
        return "composed"
    if model.main_input_name == "pixel_values":
        return "vision"
    if model.main_input_name != "input_ids":
        return "other"
    return "decoder" if model.can_generate() or _caches(model) else "encoder"


def _caches(model: PreTrainedModel) -> bool:
    """Say whether a base model keeps a cache: it takes one, and is not an encoder that may act as decoder."""
    takes = "past_key_values" in inspect.signature(model.forward).parameters
    return takes and not hasattr(model.config, "is_decoder")


Group = Callable[[PreTrainedModel, Sizes], Iterator[Pass]]


def groups(model: PreTrainedModel) -> dict[str, Group]:
    """Return what to run, by the name of the model's part: a part that cannot run leaves the others known.

    Each value runs its passes on the meta device at given sizes and yields what each of them did; it raises
    whatever the model's own code raises where that cannot run there.
    """
    kind = kind_of(model)
    if kind == "other":
        raise _unfed(model)
    parts: dict[str, Group] = {}
    if kind in ("vision", "composed", "dual"):
        parts["vision"] = lambda model, sizes: iter((_vision(model, sizes, kind),))
    match kind:
        case "encoder_decoder":
            parts["text"] = _encoder_decoder
        case "decoder" | "composed":
            parts["text"] = _decoder
        case "encoder":
            parts["text"] = _encoder
        case "dual":
            parts["text"] = _text_features
    return parts


def _encoder(model: PreTrainedModel, sizes: Sizes) -> Iterator[Pass]:
    values = _prompt_values(sizes, sizes.tokens, sizes.tokens)
    yield _observe(model, "prefill", values, lambda: model(input_ids=_ids(sizes.batch, sizes.tokens)))


def _text_features(model: PreTrainedModel, sizes: Sizes) -> Iterator[Pass]:
    call: Any = model.get_text_features
    values = _prompt_values(sizes, sizes.tokens, sizes.tokens)
    yield _observe(model, "prefill", values, lambda: call(input_ids=_ids(sizes.batch, sizes.tokens)))


def _observe(
    model: PreTrainedModel,
    name: PassName,
    values: Mapping[str, int],
    call: Callable[[], Any],
    *,
    assume_full: bool = False,
) -> Pass:
    observer = Observer(model, assume_full=assume_full)
    with _on_meta(model, observer), observer.watching(model):
        call()
    return Pass(name, values, tuple(observer.seen), tuple(dict.fromkeys(observer.unnamed)))


@contextmanager
def _on_meta(model: PreTrainedModel, observer: Observer) -> Iterator[None]:
    update = Cache.update

    def noted(cache: Cache, keys: torch.Tensor, values: torch.Tensor, *rest: Any, **options: Any) -> Any:  # noqa: ANN401
        observer.cache_updated(keys, values)
        return update(cache, keys, values, *rest, **options)

    with ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(installed(observer.attend, observer.route, observer.mask))
        stack.enter_context(scans_seen(model, observer))
        stack.enter_context(replaced(Cache, "update", noted))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.device("meta"))
        yield


def _ids(batch: int, tokens: int) -> torch.Tensor:
    return torch.zeros((batch, tokens), dtype=torch.long, device="meta")


def _prompt_values(sizes: Sizes, tokens: int, context: int) -> dict[str, int]:
    return {"batch": sizes.batch, "tokens": tokens, "context": context, "source_tokens": sizes.source_tokens}


def _decoder(model: PreTrainedModel, sizes: Sizes) -> Iterator[Pass]:
    """Prefill, then one token at a context of its own; positions per sequence, as generate() gives them."""
    taken = inspect.signature(model.forward).parameters
    composed = kind_of(model) == "composed"

    def run(tokens: int, context: int, cache: object = None) -> Any:  # noqa: ANN401
        given: dict[str, Any] = {"input_ids": _ids(sizes.batch, tokens), "use_cache": True}
        if "logits_to_keep" in taken:
            given["logits_to_keep"] = 1
        if composed:
            # Without a mask, transformers looks into the positions for packed sequences.
            given["attention_mask"] = torch.ones((sizes.batch, context), dtype=torch.long, device="meta")
        elif "position_ids" in taken:
            given["position_ids"] = torch.arange(context - tokens, context, device="meta").expand(
                sizes.batch, tokens
            )
        if cache is not None:
            given["past_key_values" if "past_key_values" in taken else "cache_params"] = cache
        return model(**given)

    values = _prompt_values(sizes, sizes.tokens, sizes.tokens)
    yield _observe(model, "prefill", values, lambda: run(sizes.tokens, sizes.tokens))
    with _on_meta(model, Observer(model)):
        output = run(sizes.context - 1, sizes.context - 1)
    cache = getattr(output, "past_key_values", None) or getattr(output, "cache_params", None)
    if cache is None:
        raise InputError(f"{type(model).__name__} returns no cache to decode with")
    values = _prompt_values(sizes, 1, sizes.context)
    yield _observe(model, "decode", values, lambda: run(1, sizes.context, cache))


def _encoder_decoder(model: PreTrainedModel, sizes: Sizes) -> Iterator[Pass]:
    """Encode the source, then prefill and decode over the encoder's result."""
    encoder = model.get_encoder()
    name = model.main_input_name
    source: dict[str, Any] = {name: _source(model, sizes)}
    values = {"batch": sizes.batch, "source_tokens": sizes.source_tokens}
    results: list[Any] = []
    yield _observe(model, "encode", values, lambda: results.append(encoder(**source)))
    encoded = (results[0][0],)

    def run(tokens: int, cache: object = None) -> Any:  # noqa: ANN401
        ids = _ids(sizes.batch, tokens)
        return model(decoder_input_ids=ids, encoder_outputs=encoded, past_key_values=cache, use_cache=True)

    values = _prompt_values(sizes, sizes.tokens, sizes.tokens)
    yield _observe(model, "prefill", values, lambda: run(sizes.tokens))
    with _on_meta(model, Observer(model)):
        cache = run(sizes.context - 1).past_key_values
    values = _prompt_values(sizes, 1, sizes.context)
    yield _observe(model, "decode", values, lambda: run(1, cache))


def _source(model: PreTrainedModel, sizes: Sizes) -> torch.Tensor:
    if model.main_input_name == "input_ids":
        return _ids(sizes.batch, sizes.source_tokens)
    config = model.config
    if model.main_input_name == "input_features" and hasattr(config, "max_source_positions"):
        # Whisper pads or cuts every recording to the same number of frames, two per encoder row.
        shape = (sizes.batch, config.num_mel_bins, 2 * config.max_source_positions)
        return torch.empty(shape, device="meta")
    raise _unfed(model)


def _unfed(model: PreTrainedModel) -> InputError:
    return InputError(f"{type(model).__name__} takes {model.main_input_name}, which the probe cannot make")


def _vision(model: PreTrainedModel, sizes: Sizes, kind: Kind) -> Pass:
    """Run the vision tower and what joins it to the text on `images` images for each sequence."""
    count = sizes.batch * sizes.images
    values = {"batch": sizes.batch, "images": sizes.images}
    call: Callable[..., Any] = model
    if kind != "vision":
        call = getattr(model, "get_image_features", None) or model.model.get_image_features
    given = _pixels(model, call, count, sizes)
    return _observe(model, "vision", values, lambda: call(**given), assume_full=True)


def _pixels(model: PreTrainedModel, call: Callable[..., Any], count: int, sizes: Sizes) -> dict[str, Any]:
    """Return images as the model takes them: whole, several to a sequence, or already cut in patches."""
    config = getattr(model.config, "vision_config", model.config)
    channels = getattr(config, "num_channels", getattr(config, "in_channels", 3))
    if "image_grid_thw" in inspect.signature(call).parameters:
        patch = channels * config.temporal_patch_size * config.patch_size**2
        grid = torch.tensor([[1, GRID, GRID]] * count, device="cpu")
        pixels = torch.empty((count * GRID * GRID, patch), device="meta")
        return {"pixel_values": pixels, "image_grid_thw": grid}
    side = getattr(config, "image_size", None)
    if side is None:
        raise InputError(f"{type(model).__name__} has images of no size that its config gives")
    height, width = side if isinstance(side, list | tuple) else (side, side)
    several = model.config.model_type in ("idefics2", "idefics3", "smolvlm")
    lead = (sizes.batch, sizes.images) if several else (count,)
    return {"pixel_values": torch.empty((*lead, channels, height, width), device="meta")}
