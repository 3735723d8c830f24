"""`tierline run --benchmark`: prompt and decode rates instead of an answer."""

import json
import sys
from typing import Annotated

import typer

from tierline.cli.session import Setting, traced_session
from tierline.errors import InputError
from tierline.report.benchmark import benchmark_json, benchmark_text

PROMPT_TOKENS, REPETITIONS = 512, 5
BenchmarkOption = Annotated[
    bool, typer.Option("--benchmark", help="Measure instead of answering: a long prompt, then --new tokens.")
]
PromptTokensOption = Annotated[
    int | None,
    typer.Option(help=f"Tokens of --benchmark's prompt; {PROMPT_TOKENS} if not given.", min=1, max=2**20),
]
RepeatOption = Annotated[
    int | None,
    typer.Option(help=f"Repetitions of --benchmark; {REPETITIONS} if not given.", min=1, max=1000),
]


def measure(
    setting: Setting, *, prompt_tokens: int | None, new: int, repeat: int | None, as_json: bool
) -> None:
    """Measure the model and print the table. Raises InputError where it was not made for so many tokens."""
    tokens, longest = (prompt_tokens or PROMPT_TOKENS) + new + 1, setting.source.model.max_context
    if longest is not None and tokens > longest:
        raise InputError(
            f"{setting.source.path.name} was made for {longest:,} tokens, not for the {tokens:,} of this "
            "benchmark: lower --prompt-tokens or --new"
        )
    with traced_session(setting) as (session, bar):
        from tierline.run.benchmark import benchmark

        found = benchmark(
            session,
            prompt_tokens=prompt_tokens or PROMPT_TOKENS,
            new=new,
            repetitions=repeat or REPETITIONS,
            progress=bar.loading,
            tell=bar.say,
        )
    sys.stdout.write((json.dumps(benchmark_json(found)) if as_json else benchmark_text(found)) + "\n")
