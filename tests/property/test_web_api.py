"""The page's API against its own OpenAPI schema: whatever is asked, it answers, and never with a 500."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from schemathesis import checks

from tierline.web.app import create_app

APP = create_app(("testserver",))
API = schemathesis.openapi.from_asgi("/api/openapi.json", APP)
SETTINGS = schemathesis.openapi.from_asgi("/api/openapi.json", APP)
# Names that exist, so that what is drawn reaches the planner and the simulator.
MODELS = ("gpt2", "smolvlm2-256m", "smolvla", "qwen3-0.6b", "gpt-oss-20b")
MACHINES = ("nexys-video", "rtx-4090", "kria-kv260", "rtx-3090+desktop-ddr5")
FORMATS = ("bf16", "int8:group=128", "mxfp4", "q4_0")


@pytest.fixture(autouse=True, scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The workers, and a runtime folder in which nobody runs anything."""
    with pytest.MonkeyPatch.context() as patch, TestClient(APP, base_url="http://testserver"):
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield


@SETTINGS.hook
def map_body(_context: object, body: Any) -> Any:
    """Let settings name a model, a machine and formats that there are."""
    if not isinstance(body, dict):
        return body
    draw = len(repr(body))
    real = {"model": MODELS[draw % len(MODELS)], "machine": MACHINES[draw % len(MACHINES)]}
    formats = {key: FORMATS[draw % len(FORMATS)] for key in ("weights", "kv", "activations") if body.get(key)}
    kept: dict[str, Any] = {} if draw % 3 == 0 else {"overrides": [], "keep": []}
    return {**body, **real, **formats, **kept}


@API.parametrize()
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
def test_whatever_is_asked_it_answers_as_its_schema_says(case: schemathesis.Case[Any]) -> None:
    # a name that nobody has is refused although it is written as one
    case.call_and_validate(excluded_checks=[checks.positive_data_acceptance])


@SETTINGS.include(path_regex="/api/(plan|bounds|timeline)").parametrize()
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_whatever_setting_is_asked_about_is_answered(case: schemathesis.Case[Any]) -> None:
    # names were mended, so that what was drawn to be wrong may be right
    mended = [checks.positive_data_acceptance, checks.negative_data_rejection]
    case.call_and_validate(excluded_checks=mended)


def test_the_schema_is_of_every_question() -> None:
    asked = set(API.raw_schema["paths"])
    assert {
        "/api/plan",
        "/api/bounds",
        "/api/timeline",
        "/api/upload",
        "/api/machine",
        "/api/runs/{run}",
    } <= asked
