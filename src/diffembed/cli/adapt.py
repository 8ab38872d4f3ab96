"""`diffembed adapt`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from diffembed.cli.options import Json
from diffembed.cli.training import make_score, print_fields, print_plan, print_run
from diffembed.errors import ConfigError


def adapt(
    config: Path | None = None,
    /,
    *,
    set: Annotated[list[str] | None, Parameter(name=["--set", "-s"])] = None,
    dry_run: bool = False,
    fields: bool = False,
    processes: int = 1,
    json: Json = False,
) -> None:
    """Adapt a language model into a masked-diffusion model.

    Text files train it to restore masked tokens; the result loads as an embedder and as a base for diffembed train.
    The same command on the same folder goes on where it stopped; torchrun starts it on several devices.

    For example:
        diffembed adapt --fields

    Parameters
    ----------
    config
        A YAML file of the fields that --fields lists; the folder recipes has some.
    set
        Set a field over the file: section.field=value; may be repeated.
    dry_run
        Resolve everything and print rows, tokens, steps and memory; load no weights, write nothing.
    fields
        List every field of a config with its type, default and meaning.
    processes
        Number of processes the dry run is for.
    json
        Print JSON lines.
    """
    from diffembed.training.adapt_config import AdaptConfig
    from diffembed.training.settings import read_config

    if fields:
        print_fields(AdaptConfig, json=json)
        return
    if config is None:
        raise ConfigError("name a config file; its fields are listed by: diffembed adapt --fields")
    if processes != 1 and not dry_run:
        raise ConfigError("--processes is for --dry-run; torchrun --nproc-per-node starts processes")
    settings = read_config(AdaptConfig, config, set or [])
    if dry_run:
        from diffembed.training.plan import plan_adaptation

        print_plan(plan_adaptation(settings, num_processes=processes), json=json)
        return
    from diffembed.training.adapt import adapt as run

    score = make_score(settings.development)
    print_run(run(settings, score=score), json=json)
