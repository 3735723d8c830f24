"""The cache of a run, kept as was chosen."""

import torch
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from tierline.run.kv.choice import KvChoice
from tierline.run.kv.codec import AsComputed, Int8
from tierline.run.kv.disk import KvDisk
from tierline.run.kv.disk_rows import DiskRows
from tierline.run.kv.layer import RowStore, StoredLayer
from tierline.run.kv.memory_rows import MemoryRows


def make_cache(
    choice: KvChoice, config: PreTrainedConfig, *, tokens: int, dtype: torch.dtype, disk: KvDisk | None
) -> Cache:
    """Return an empty cache for the model of `config`, with room for `tokens` a sequence.

    Rows are on `disk` where there is one, otherwise in memory. The states are computed in `dtype`.
    """
    cache = DynamicCache(config=config)

    def make_rows(row_bytes: int) -> RowStore:
        return MemoryRows(row_bytes, tokens) if disk is None else DiskRows(disk, row_bytes, tokens)

    codec = AsComputed(dtype) if choice.format is None else Int8(dtype)
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[index] = StoredLayer(codec, make_rows)
    return cache
