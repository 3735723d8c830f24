"""Figures that were derived by hand from the tensor lists, to the byte."""

import pytest

from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.models.open import open_model
from tierline.models.workload import Workload
from tierline.plan.build import build_plan
from tierline.plan.plan import Plan


def planned(
    model: str = "smolvlm2-256m", on: str = "nexys-video", context: int = 1024, **formats: object
) -> Plan:
    precision = Precision.of(**formats)  # type: ignore[arg-type]
    return build_plan(open_model(model), load_machine(on), Workload.of(context=context), precision)


@pytest.mark.parametrize(
    ("weights", "keep", "expected_bytes"),
    [
        ("mxfp8:block=8", (), 288_545_544),
        ("mxfp8", (), 264_500_082),
        ("mxfp8", ("norms=bf16", "biases=bf16"), 264_652_416),
        ("fp32", (), 1_025_939_712),
        ("bf16", (), 512_969_856),
        (None, (), 512_969_856),
    ],
)
def test_weights_of_smolvlm2_256m(weights: str | None, keep: tuple[str, ...], expected_bytes: int) -> None:
    footprint = planned(weights=weights, keep=keep).footprint
    assert footprint.weights_bytes == expected_bytes
    assert sum(footprint.by_component_bytes.values()) == expected_bytes


def test_the_tied_footprint_drops_the_second_copy_of_the_table() -> None:
    footprint = planned(weights="bf16").footprint
    assert footprint.weights_bytes - footprint.tied_weights_bytes == 49_280 * 576 * 2


@pytest.mark.parametrize(("kv", "bytes_per_token"), [("bf16", 23_040), ("mxfp8:block=8", 12_960)])
def test_kv_bytes_per_token(kv: str, bytes_per_token: int) -> None:
    assert planned(kv=kv, context=1021).footprint.kv_cache_bytes == 1021 * bytes_per_token


@pytest.mark.parametrize(("kv", "tokens_per_s"), [("mxfp8:block=8", 6.07), ("bf16", 5.71)])
def test_decode_on_the_board_reads_its_own_tensors_and_the_cache(kv: str, tokens_per_s: float) -> None:
    decode = planned(weights="mxfp8:block=8", kv=kv).phase("decode")
    assert decode is not None
    assert decode.weight_read_bytes_per_pass == 151_412_976
    assert decode.weight_read_bytes == 128 * 151_412_976
    assert decode.tokens_per_s == pytest.approx(tokens_per_s, abs=0.005)
    assert (decode.bound, decode.rate_kind) == ("link:ddr3", "sustained")


def test_before_kv_the_board_decodes_at_6_60() -> None:
    decode = planned(weights="mxfp8:block=8").phase("decode")
    port = load_machine("nexys-video").fast.rate
    assert decode is not None
    assert port is not None
    assert port.value / decode.weight_read_bytes_per_pass == pytest.approx(6.60, abs=0.005)


def test_bf16_weights_alone_fit_the_board_but_not_with_a_cache() -> None:
    plan = planned(weights="bf16")
    assert plan.footprint.weights_bytes < 536_870_912 == plan.tiers[0].capacity_bytes
    assert not plan.fits
    assert plan.strategy == "streamed"
    assert plan.residency.link == "usb2"


def test_parameters_of_llama_3_1_8b() -> None:
    assert open_model("llama-3.1-8b").parameters == 8_030_261_248
