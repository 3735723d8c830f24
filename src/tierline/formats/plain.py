"""Formats that are one number after another, with nothing beside them."""

from tierline.formats.packed import Packed

_BYTES = {
    "fp64": (8, "ieee754"),
    "fp32": (4, "ieee754"),
    "tf32": (4, "tf32"),
    "fp16": (2, "ieee754"),
    "bf16": (2, "bfloat16"),
    "int64": (8, "integers"),
    "int32": (4, "integers"),
    "int16": (2, "integers"),
    "uint8": (1, "integers"),
    "bool": (1, "integers"),
    "fp8_e8m0": (1, "ocp-mx"),
}

PLAIN = {name: Packed(name, source, 1, size) for name, (size, source) in _BYTES.items()}
PLAIN |= {
    "int8": Packed("int8", "integers", 1, 1),
    "fp8": Packed("fp8", "ocp-fp8", 1, 1),
    "fp8_e5m2": Packed("fp8_e5m2", "ocp-fp8", 1, 1),
}
BF16 = PLAIN["bf16"]
FP16 = PLAIN["fp16"]
FP32 = PLAIN["fp32"]

# Other names of the same: those of safetensors and GGUF headers in lower case, and of torch.
ALIASES = {
    "f64": "fp64", "float64": "fp64",
    "f32": "fp32", "float32": "fp32",
    "f16": "fp16", "float16": "fp16",
    "bfloat16": "bf16",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8", "u8": "uint8",
    "fp8_e4m3": "fp8", "f8_e4m3": "fp8", "float8_e4m3fn": "fp8",
    "f8_e5m2": "fp8_e5m2", "float8_e5m2": "fp8_e5m2",
    "f8_e8m0": "fp8_e8m0",
}  # fmt: skip
