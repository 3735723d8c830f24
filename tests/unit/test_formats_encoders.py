"""Byte counts against libraries that really encode: gguf, ml_dtypes, transformers, torchao, bitsandbytes.

torchao and bitsandbytes are no dependency; their tests are skipped where they are not installed.
"""

import importlib.util
import logging
import warnings
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from tierline.formats.ggml import ggml_type
from tierline.formats.parse import parse_format


def optional(name: str) -> ModuleType:
    """Import a library that may be absent and that warns about its own kernels when it is not."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        pytest.skip(f"{name.partition('.')[0]} is not installed")
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    finally:
        logging.disable(logging.NOTSET)


ENCODABLE = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0")
DECODABLE = sorted(kind.name for kind in quants._type_traits)


@pytest.mark.parametrize("name", ENCODABLE)
def test_gguf_encodes_to_our_bytes(name: str) -> None:
    kind = GGMLQuantizationType[name]
    values = np.random.default_rng(3).standard_normal((5, 768), dtype=np.float32)
    assert quants.quantize(values, kind).nbytes == ggml_type(int(kind)).footprint_bytes(values.shape)


@pytest.mark.parametrize("name", DECODABLE)
def test_gguf_decodes_our_bytes_to_the_elements_we_meant(name: str) -> None:
    kind = GGMLQuantizationType[name]
    size = ggml_type(int(kind)).footprint_bytes((5, 768))
    decoded = quants.dequantize(np.zeros((5, size // 5), dtype=np.uint8), kind)
    assert decoded.shape == (5, 768)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("bf16", ml_dtypes.bfloat16),
        ("fp8", ml_dtypes.float8_e4m3fn),
        ("fp8_e5m2", ml_dtypes.float8_e5m2),
        ("fp8_e8m0", ml_dtypes.float8_e8m0fnu),
        ("fp16", np.float16),
        ("fp64", np.float64),
        ("int16", np.int16),
        ("bool", np.bool_),
    ],
)
def test_arrays_take_our_bytes(name: str, dtype: type[np.generic]) -> None:
    values = np.ones((7, 131)).astype(dtype)
    assert values.nbytes == parse_format(name).footprint_bytes(values.shape)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("mxfp4:block=1024", ml_dtypes.float4_e2m1fn),
        ("mxfp6:block=1024", ml_dtypes.float6_e3m2fn),
        ("mxfp8:block=1024", ml_dtypes.float8_e4m3fn),
        ("mxfp8:block=1024", ml_dtypes.float8_e5m2),
    ],
)
def test_elements_of_mx_have_the_bits_of_ml_dtypes(name: str, dtype: type) -> None:
    bits = ml_dtypes.finfo(dtype).bits  # type: ignore[no-untyped-call]
    assert parse_format(name).footprint_bytes((3, 1024)) == 3 * (1024 * bits // 8 + 1)


@pytest.mark.parametrize(("name", "dtype"), [("int4", ml_dtypes.int4), ("int2", ml_dtypes.int2)])
def test_packed_integers_have_the_bits_of_ml_dtypes(name: str, dtype: type) -> None:
    bits = ml_dtypes.iinfo(dtype).bits  # type: ignore[no-untyped-call]
    assert parse_format(name).footprint_bytes((3, 1024)) == 3 * 1024 * bits // 8


def test_transformers_packs_ternary_weights_into_our_bytes() -> None:
    bitnet: Any = optional("transformers.integrations.bitnet")  # it imports torchao where that is installed
    weights = torch.randint(-1, 2, (44, 64))
    packed, scale = bitnet.pack_weights(weights), torch.ones(1, dtype=torch.bfloat16)
    assert packed.nbytes + scale.nbytes == parse_format("ternary").footprint_bytes(tuple(weights.shape))


def test_five_ternary_digits_fit_a_byte() -> None:
    """Pack base 3 by hand, unpack, and compare: the dense packing loses nothing in our byte count."""
    trits = np.random.default_rng(5).integers(0, 3, (7, 131))
    padded = np.pad(trits, ((0, 0), (0, 4))).reshape(7, -1, 5)
    packed = (padded * 3 ** np.arange(5)).sum(axis=2).astype(np.uint8)
    unpacked = (packed[..., None].astype(int) // 3 ** np.arange(5) % 3).reshape(7, -1)[:, :131]
    assert (unpacked == trits).all()
    assert packed.nbytes + 2 == parse_format("ternary:dense").footprint_bytes(trits.shape)


def test_torchao_int8_and_fp8_have_an_fp32_scale_per_row() -> None:
    ao: Any = optional("torchao.quantization")
    for config, name in (
        (ao.Int8WeightOnlyConfig(), "int8:channel"),
        (ao.Float8WeightOnlyConfig(), "fp8:channel"),
    ):
        layer = torch.nn.Sequential(torch.nn.Linear(160, 48, bias=False, dtype=torch.bfloat16))
        ao.quantize_(layer, config)
        weight: Any = layer[0].weight
        assert weight.qdata.nbytes + weight.scale.nbytes == parse_format(name).footprint_bytes((48, 160))


@pytest.mark.parametrize(
    ("name", "element", "block"),
    [
        ("mxfp8", "float8_e4m3fn", 32),
        ("mxfp8:block=8", "float8_e5m2", 8),
        ("mxfp4", "float4_e2m1fn_x2", 32),
        ("mxfp4:block=16", "float4_e2m1fn_x2", 16),
    ],
)
def test_torchao_encodes_mx_to_our_bytes(name: str, element: str, block: int) -> None:
    tensors: Any = optional("torchao.prototype.mx_formats.mx_tensor")
    values = torch.randn(7, 160, dtype=torch.bfloat16)
    encoded = tensors.MXTensor.to_mx(values, getattr(torch, element), block)
    assert encoded.qdata.nbytes + encoded.scale.nbytes == parse_format(name).footprint_bytes((7, 160))


def test_torchao_encodes_nvfp4_to_our_bytes() -> None:
    tensors: Any = optional("torchao.prototype.mx_formats.nvfp4_tensor")
    values = torch.randn(6, 160, dtype=torch.bfloat16)
    encoded = tensors.NVFP4Tensor.to_nvfp4(values, per_tensor_scale=torch.tensor(1.0))
    stored = encoded.qdata.nbytes + encoded.scale.nbytes + encoded.per_tensor_scale.nbytes
    assert stored == parse_format("nvfp4").footprint_bytes((6, 160))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_encodes_to_our_bytes(kind: str, *, double: bool) -> None:
    functional: Any = optional("bitsandbytes.functional")
    for shape in ((7, 131), (64, 768)):
        packed, state = functional.quantize_4bit(
            torch.randn(*shape), blocksize=64, quant_type=kind, compress_statistics=double
        )
        stored = packed.nbytes + state.absmax.nbytes + state.code.nbytes
        if double:
            stored += state.state2.absmax.nbytes + state.state2.code.nbytes + state.offset.nbytes
        assert stored == parse_format(f"{kind}:double" if double else kind).footprint_bytes(shape)
