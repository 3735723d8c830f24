"""Keys and values: what one token adds to the cache, and what a pass reads and writes of it."""

from tierline.cost.amount import Amount, Values, smaller
from tierline.formats.format import Format
from tierline.models.description import Attention


def token_bytes(attention: Attention, kv_format: Format) -> int:
    """Return the cache bytes that one token adds in one layer.

    `bytes([kv_heads, head_dim]) + bytes([kv_heads, value_dim])`: the format's blocks and scales run along
    the elements of a head. A cache that is not one K and one V per head (MLA's latent) is one row of
    `cache_width` elements. 0 without a cache. Source: transformers' DynamicCache holds
    [batch, kv_heads, tokens, head_dim] twice per layer; DeepSeek-V2 (arXiv 2405.04434) section 2.1 for MLA.
    """
    if not attention.cache_width:
        return 0
    heads = attention.kv_heads
    if attention.cache_width == heads * (attention.head_dim + attention.value_dim):
        key = kv_format.footprint_bytes((heads, attention.head_dim))
        return key + kv_format.footprint_bytes((heads, attention.value_dim))
    return kv_format.footprint_bytes((1, attention.cache_width))


def keys_touched(attention: Attention, values: Values) -> Amount:
    """Return the distinct key rows of one sequence that a pass touches: `min(keys, window + tokens - 1)`.

    The last of `tokens` queries sees `window` keys, and each one before it shifts the window by one.
    """
    keys = attention.keys.evaluate(values)
    if attention.window is None:
        return keys
    return smaller(keys, attention.window + values["tokens"] - 1)


def cached_tokens(attention: Attention, values: Values, spare_tokens: int | None = 0) -> Amount:
    """Return the tokens of one sequence that stay cached after a pass; 1 for a state.

    `min(keys, window + spare_tokens)`, or all keys where `spare_tokens` is None.
    """
    if attention.cache == "state":
        return 1
    keys = attention.keys.evaluate(values)
    if attention.window is None or spare_tokens is None:
        return keys
    return smaller(keys, attention.window + spare_tokens + 0 * keys)


def paged(tokens: Amount, block_tokens: int) -> Amount:
    """Return `tokens` rounded up to whole blocks of `block_tokens` (Kwon et al., arXiv 2309.06180)."""
    return -(-tokens // block_tokens) * block_tokens


def footprint_bytes(
    attention: Attention,
    kv_format: Format,
    values: Values,
    *,
    block_tokens: int = 1,
    spare_tokens: int | None = 0,
) -> Amount:
    """Return the cache bytes of one layer: `batch * tokens * token_bytes`, tokens in whole blocks.

    A window has room for `spare_tokens` more (None: for all tokens). A cache that is shared is held by the
    layer that fills it: 0 here.
    """
    if attention.cache in ("none", "shared"):
        return 0
    cached = cached_tokens(attention, values, spare_tokens)
    tokens = paged(cached, 1 if attention.cache == "state" else block_tokens)
    return values["batch"] * tokens * token_bytes(attention, kv_format)


def read_bytes(attention: Attention, kv_format: Format, values: Values, *, own_at_hand: bool) -> Amount:
    """Return the cache bytes that one layer reads in a pass: `batch * keys_touched * token_bytes`.

    `own_at_hand` means that the keys and values that the pass itself adds (a prefill, or a chunk of one) are
    at hand and count as activations, not as cache: only those of earlier passes are read. A state is read
    once per sequence.
    """
    if attention.cache == "none":
        return 0
    keys = 1 if attention.cache == "state" else keys_touched(attention, values)
    if own_at_hand and attention.cache == "append":
        keys = keys - values["tokens"]
    return values["batch"] * keys * token_bytes(attention, kv_format)


def write_bytes(attention: Attention, kv_format: Format, values: Values) -> Amount:
    """Return the cache bytes that one layer writes in a pass: one row per new token, or the whole state.

    A cross-attention's cache is written where it is made, not where it is read: 0. The same goes for a
    shared one.
    """
    if attention.cache in ("none", "cross", "shared"):
        return 0
    tokens = 1 if attention.cache == "state" else values["tokens"]
    return values["batch"] * tokens * token_bytes(attention, kv_format)
