"""`tierline audit`: published figures checked against derived ones."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tierline.cli import options

FilesArgument = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Claims files, or directories of them.")
]


def audit(files: FilesArgument, as_json: options.JsonOption = False) -> None:
    """Check published figures: derive each one, say what holds, what is wrong and by what, and why.

    Exits with 0 whatever the verdicts are. docs/audit.md says how a claims file is written.

    Example: tierline audit audits/
    """
    from tierline.audit.claims import read_claims
    from tierline.audit.verdict import judge

    read = [claims_file for path in files for claims_file in read_claims(path)]
    findings = [(claims_file, judge(claim)) for claims_file in read for claim in claims_file.claims]
    from tierline.audit.show import findings_json, print_findings

    if as_json:
        typer.echo(json.dumps(findings_json(findings), indent=2, ensure_ascii=False))
        return
    print_findings(findings)
