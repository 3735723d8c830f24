"""Auditing files that nobody prepared: planted mistakes are named, bad files are refused."""

import json
import re
import runpy
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.audit.claims import read_claims
from tierline.audit.expression import JOININGS, read_expression
from tierline.audit.figure import BYTES, COUNT, SECONDS, parse_given, unit, units
from tierline.audit.options import OPTIONS, Options
from tierline.audit.quantities import QUANTITIES
from tierline.audit.verdict import Finding, judge
from tierline.cli.main import main
from tierline.errors import InputError

DOCS = Path(__file__).parents[2] / "docs"
# Llama 3.2 1B by hand: 16 layers, 2048 wide, 8 of 32 key/value heads of 64, feed-forward 8192, tied 128,256.
LAYER = 2 * 2048 * 2048 + 2 * 512 * 2048 + 3 * 8192 * 2048 + 2 * 2048
TABLE = 128_256 * 2048
TOTAL = 16 * LAYER + TABLE + 2048
TOKEN = 16 * 2 * 8 * 64 * 2


def judged(tmp_path: Path, claim: str, scenario: str = 'model = "llama-3.2-1b"') -> Finding:
    path = tmp_path / "claims.toml"
    path.write_text(f'[scenario]\n{scenario}\n[[claim]]\nid = "it"\n{claim}\n', encoding="utf-8")
    (file,) = read_claims(path)
    return judge(file.claims[0])


def test_a_figure_that_holds(tmp_path: Path) -> None:
    finding = judged(tmp_path, 'derive = "parameters"\npublished = 1.24\nunit = "Gparams"')
    assert finding.verdict == "holds"
    assert finding.derived == TOTAL
    assert finding.factor == Fraction(1_240_000_000, TOTAL)


@pytest.mark.parametrize(
    ("claim", "verdict", "words"),
    [
        ('derive = "footprint_bytes"\npublished = 2.30\nunit = "GB"', "unit_mix", "2.30188 GiB"),
        ('derive = "footprint_bytes"\npublished = 2.47\nunit = "GiB"', "unit_mix", "2.47163 GB"),
        ('derive = "footprint_bytes"\npublished = 4.94\nunit = "GB"', "holds_if", "weights in fp32"),
        ('derive = "footprint_bytes"\npublished = 1.24\nunit = "GB"', "holds_if", "weights in int8"),
        ('derive = "footprint_bytes"\npublished = 121.6\nunit = "MB"', "wrong", "one layer instead of all"),
        (
            'scenario = { context = 8192 }\nderive = "kv_cache_bytes"\npublished = 1.074\nunit = "GB"',
            "wrong",
            "a key/value head for every query head",
        ),
        (
            'scenario = { context = 8192 }\nderive = "kv_cache_bytes"\npublished = 16.78\nunit = "MB"',
            "wrong",
            "one layer instead of all",
        ),
        (
            'scenario = { context = 8192 }\nderive = "kv_cache_bytes"\npublished = 536.9\nunit = "MB"',
            "holds_if",
            "kv in fp32",
        ),
        (
            'scenario = { context = 8192, kv = "bf16" }\nderive = "kv_cache_bytes"\npublished = 536.9\n'
            'unit = "MB"',
            "wrong",
            "kv in fp32",
        ),
        (
            'scenario = { context = 8192 }\nderive = "kv_cache_bytes"\npublished = 2147\nunit = "MB"',
            "holds_if",
            "batch 8",
        ),
        (
            'derive = { quantity = "link_rate", machine = "nexys-video", rate = "sustained" }\n'
            'published = 1.6\nunit = "GB/s"',
            "wrong",
            "the peak rate",
        ),
        (
            'derive = { quantity = "footprint_bytes", weights = "mxfp8" }\npublished = 1.39\nunit = "GB"',
            "wrong",
            "mxfp8:block=8",
        ),
        ('derive = "parameters"\npublished = 973.1461\nunit = "Mparams"', "wrong", "without the embedding"),
        ('derive = "parameters"\npublished = 2.4716\nunit = "Gparams"', "wrong", "2 times it"),
        ('derive = "parameters"\npublished = 3.7\nunit = "Tparams"', "wrong", "published is 2994 times that"),
    ],
)
def test_planted_mistakes_are_named(tmp_path: Path, claim: str, verdict: str, words: str) -> None:
    finding = judged(tmp_path, claim)
    assert finding.verdict == verdict, finding.diagnosis
    assert words in finding.diagnosis


def test_two_mistakes_together_are_named(tmp_path: Path) -> None:
    wide = 4 * 8192 * TOKEN * 9 // 16  # every query head has its own, and elements have 9 bits
    claim = 'scenario = { context = 8192, kv = "bf16" }\nderive = "kv_cache_bytes"\nunit = "B"\npublished = '
    finding = judged(tmp_path, f"{claim}{wide}")
    assert finding.verdict == "wrong"
    assert "a key/value head for every query head and kv in mxfp8:block=8 together" in finding.diagnosis
    coarse = judged(tmp_path, claim.replace('"B"', '"GB"') + "2")
    assert "together" not in coarse.diagnosis


def test_values_by_hand(tmp_path: Path) -> None:
    cache = 'scenario = { context = 1021, batch = 7 }\nderive = "kv_cache_bytes"\npublished = 1\nunit = "B"'
    assert judged(tmp_path, cache).derived == 7 * 1021 * TOKEN
    read = 'derive = { quantity = "weight_read_bytes", phase = "decode" }\npublished = 1\nunit = "B"'
    assert judged(tmp_path, read).derived == 2 * (TOTAL + 2048)  # all of it, and one row of the table again


def test_ranges_bounds_and_inputs(tmp_path: Path) -> None:
    ends = 'derive = "parameters"\npublished = 1\npublished_high = 2\nunit = "Gparams"\n'
    assert judged(tmp_path, ends).verdict == "holds"
    assert judged(tmp_path, ends + 'assuming = "the table counts once"').verdict == "holds_if"
    assert judged(tmp_path, ends + 'not_derivable = "measured"').verdict == "not_derivable"
    most = 'derive = "footprint_bytes"\npublished = 8\nunit = "GB"\nrelation = "at_most"'
    assert judged(tmp_path, most).verdict == "holds"
    assert judged(tmp_path, most.replace("at_most", "at_least")).verdict != "holds"


def test_a_rate_that_no_source_gives_is_not_derivable(tmp_path: Path) -> None:
    claim = 'derive = { quantity = "compute_rate", format = "int8" }\npublished = 1\nunit = "TOP/s"'
    finding = judged(tmp_path, claim, 'machine = "alveo-v80"')
    assert (finding.verdict, finding.derived) == ("not_derivable", None)


def test_published_options_and_explanations_are_computed_not_believed(tmp_path: Path) -> None:
    claim = 'derive = "parameters"\npublished = 99\nunit = "params"\n'
    other = claim + 'explained_by = [{ why = "a guess", derive = { given = "98 params" } }]'
    assert "a guess" not in judged(tmp_path, other).diagnosis
    fits = (
        claim
        + 'explained_by = [{ why = "a count", derive = { product = [{ given = "9" }, { given = "11" }] } }]'
    )
    assert "a count" in judged(tmp_path, fits).diagnosis
    assert judged(tmp_path, claim + 'published_with = { component = "text" }').verdict == "wrong"


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ('derive = "parametres"\npublished = 1\nunit = "params"', "did you mean parameters"),
        ('derive = "parameters"\npublished = 1\nunit = "MB"', "derived figure is in a plain number"),
        ('derive = "parameters"\npublished = 1\nunit = "Mb"', "no unit is called"),
        ('derive = "parameters"\npublished = true\nunit = "params"', "want a plain number"),
        ('derive = "parameters"\npublished = inf\nunit = "params"', "want a plain number"),
        ('derive = "parameters"\npublished = 1e999999999\nunit = "params"', "want a plain number"),
        ('derive = "parameters"\nunit = "params"', "needs published"),
        ('derive = { quantity = "parameters", weights = "int8" }\npublished = 1\nunit = "params"', "weights"),
        ('derive = { quantity = "parameters", component = "audio" }\npublished = 1\nunit = "x"', "audio"),
        ('derive = { sum = ["parameters", { given = "1 B" }] }\npublished = 1\nunit = "B"', "be added"),
        ('derive = { ratio = ["parameters", { given = "0" }] }\npublished = 1\nunit = "x"', "divides by 0"),
        ('derive = { ratio = ["parameters"] }\npublished = 1\nunit = "x"', "2 to 2 expressions"),
        ('derive = { given = "__import__(1)" }\npublished = 1\nunit = "x"', "is not a figure"),
        ('derive = "parameters"\npublished = 1\nunit = "params"\nverdict = "holds"', "unknown key"),
        ('scenario = { batch = "two" }\nderive = "parameters"\npublished = 1\nunit = "x"', "a whole number"),
        ('derive = "parameters"\npublished = 1\nunit = "x"\n[[claim]]\nid = "it"\nderive = "parameters"\n'
         'published = 1\nunit = "x"', "two claims"),
    ],
)  # fmt: skip
def test_bad_claims_are_refused_with_what_is_wrong(tmp_path: Path, claim: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        judged(tmp_path, claim)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"= 1", b"[" * 5000, b"title = 'no claims'", b"#" * (2**20 + 1)]
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_claims(path)


def test_deep_nesting_is_refused() -> None:
    nested: object = {"given": "1"}
    for _ in range(50):
        nested = {"sum": [nested]}
    with pytest.raises(InputError, match="deep"):
        read_expression(nested, "it")


def test_the_command_refuses_a_missing_file_and_an_empty_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(SystemExit) as stopped:
            main(["audit", str(path)])
        assert stopped.value.code == 2


@given(st.sampled_from(sorted(units())), st.integers(0, 10**12))
def test_units_round_trip(name: str, count: int) -> None:
    chosen = unit(name)
    assert parse_given(f"{count} {name}").value == count * chosen.size
    assert unit(chosen.base).base == chosen.base
    if chosen.other:
        other = unit(chosen.other)
        assert other.dimension == chosen.dimension
        assert Fraction(999, 1000) * chosen.size != other.size != chosen.size


def test_dimensions_multiply_and_divide() -> None:
    assert BYTES / (BYTES / SECONDS) == SECONDS
    assert (BYTES / BYTES, str(COUNT), str(BYTES / SECONDS)) == (COUNT, "a plain number", "B/s")
    assert (
        read_expression({"ratio": [{"given": "38 MB"}, {"given": "19 MB/s"}]}, "")
        .evaluate(Options({}), {})
        .value
        == 2
    )


def test_the_page_lists_the_whole_vocabulary_and_is_fresh() -> None:
    generated = runpy.run_path(str(DOCS / "generate.py"))["texts"]()
    assert generated[DOCS / "audit.md"] == (DOCS / "audit.md").read_text(encoding="utf-8")
    page = generated[DOCS / "audit.md"]
    assert all(f"| `{name}` |" in page for name in (*QUANTITIES, *JOININGS, *OPTIONS))


def test_every_option_is_read_by_a_quantity() -> None:
    assert {option for q in QUANTITIES.values() for option in q.uses} == set(OPTIONS)


def test_the_example_of_the_page_gives_the_verdicts_that_it_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (DOCS / "audit.md").read_text(encoding="utf-8")
    example = re.search(r"<!-- example -->\n```toml\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert example is not None
    path = tmp_path / "example.toml"
    path.write_text(example[1], encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main(["audit", str(path), "--json"])
    assert stopped.value.code == 0
    claims = json.loads(capsys.readouterr().out)["claims"]
    shown = [line.split(maxsplit=2)[:2] for line in example[2].strip().splitlines()]
    assert [[c["id"], c["verdict"]] for c in claims] == shown
    assert "every query head" in claims[1]["diagnosis"]
