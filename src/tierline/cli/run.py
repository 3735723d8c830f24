"""`tierline run`: the model answers while its weights stream from disk."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tierline.cli.answer import answer, converse, take_turn
from tierline.cli.answer_all import answer_all
from tierline.cli.benchmark import BenchmarkOption, PromptTokensOption, RepeatOption, measure
from tierline.cli.session import (
    AnswerJsonOption,
    ExpertPolicyOption,
    FilesArgument,
    HostOption,
    ImageOption,
    KvOffloadOption,
    KvOption,
    LeanOption,
    MemoryOption,
    NewOption,
    PaceOption,
    RawOption,
    ResidentOption,
    Setting,
    StripeOption,
    checked_policy,
    checked_text,
    host_bytes,
    kv_choice,
    memory_bytes,
)
from tierline.cli.together import refuse_mixed
from tierline.errors import InputError
from tierline.run.images.files import check_images
from tierline.run.pace import find_pace
from tierline.run.prompts import read_prompts
from tierline.run.request import MOST_DRAFT_TOKENS, Request
from tierline.run.source import open_source
from tierline.units import parse_bytes

_CONTEXT_LIMIT = 2**24


def run(
    model: FilesArgument,
    text: Annotated[str | None, typer.Argument(help="What to ask (not with --chat).")] = None,
    resident: ResidentOption = None,
    memory: MemoryOption = None,
    new: NewOption = 128,
    raw: RawOption = False,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0, max=100)] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Sample from this much of the probability.", min=0, max=1)
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    chat: Annotated[
        bool, typer.Option("--chat", help="Converse: a line in, an answer out, until the input ends.")
    ] = False,
    context: Annotated[
        int, typer.Option(help="Most tokens of a conversation.", min=8, max=_CONTEXT_LIMIT)
    ] = 2048,
    session: Annotated[
        Path | None,
        typer.Option(help="Go on from what this file holds, if it is there, and save to it what came to it."),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write reads, waits and compute as a Chrome/Perfetto trace.")
    ] = None,
    image: ImageOption = None,
    speculate: Annotated[
        int,
        typer.Option(
            help="Guess this many tokens from the text so far, and check them in the same pass.",
            min=0,
            max=MOST_DRAFT_TOKENS,
        ),
    ] = 0,
    kv: KvOption = None,
    kv_offload: KvOffloadOption = False,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl", help="Answer every prompt of this file, many in one pass; with -o."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Where --prompts writes answers, one JSON line each."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Sequences in one pass of --prompts; by default all that the budget holds.", min=1, max=4096
        ),
    ] = None,
    benchmark: BenchmarkOption = False,
    prompt_tokens: PromptTokensOption = None,
    repeat: RepeatOption = None,
    expert_policy: ExpertPolicyOption = None,
    pace: PaceOption = None,
    host: HostOption = None,
    stripe: StripeOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hold weights against a packed file's checksums before use.")
    ] = False,
    lean: LeanOption = False,
    live: Annotated[
        bool, typer.Option("--live", help="Show tiers, link rates, tokens and stalls, here and on the page.")
    ] = False,
    auto: Annotated[
        bool,
        typer.Option(
            "--auto", help="Take the memory that is free; placement, read-ahead and batch follow from it."
        ),
    ] = False,
    as_json: AnswerJsonOption = False,
) -> None:
    """Run a model for real, its weights streamed from disk under a memory budget.

    Example: tierline run model.gguf "What is the capital of France?" --resident 44MiB
    """
    # Headers and options are checked before anything heavy is imported: a bad file answers at once.
    refuse_mixed(
        {"TEXT": text, "--raw": raw, "--temperature": temperature, "--chat": chat, "--session": session,
         "--trace": trace, "--image": image, "--speculate": speculate, "--prompts": prompts, "-o": output,
         "--batch": batch, "--benchmark": benchmark, "--prompt-tokens": prompt_tokens, "--repeat": repeat,
         "--live": live, "--json": as_json}
    )  # fmt: skip
    setting = Setting(
        source=open_source(model),
        resident=None if resident is None else parse_bytes(resident),
        memory=_budget(memory, resident) if auto else memory_bytes(memory),
        trace=trace,
        lean=lean,
        pace=None if pace is None else find_pace(pace),
        host=host_bytes(host, pace, stripe),
        stripes=tuple(stripe or ()),
        verify=verify,
        new=context if chat or session else new,
        kv=kv_choice(kv, kv_offload),
        expert_policy=checked_policy(expert_policy),
    )
    images = tuple(image or ())
    check_images(setting.source, images)
    request = Request(
        "",
        new=new,
        raw=raw,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        speculate=speculate,
        images=images,
    )
    if benchmark:
        measure(setting, prompt_tokens=prompt_tokens, new=new, repeat=repeat, as_json=as_json)
    elif chat:
        converse(setting, request, context, session, live=live)
    elif prompts is not None and output is not None:
        answer_all(setting, request, read_prompts(prompts), output, batch, as_json=as_json, live=live)
    elif session is not None:
        asked = replace(request, text=checked_text(text))
        take_turn(setting, asked, context, session, as_json=as_json, live=live)
    else:
        answer(setting, replace(request, text=checked_text(text)), as_json=as_json, live=live)


def _budget(memory: str | None, resident: str | None) -> int | None:
    """Return the bytes that are free; raise InputError where a budget was given."""
    if memory is not None or resident is not None:
        raise InputError("--auto: chooses the budget; leave it out, or --memory and --resident")
    return memory_bytes("auto")
