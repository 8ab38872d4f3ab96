"""`diffembed models`."""

from diffembed.cli.options import Json
from diffembed.cli.printing import print_json, print_table


def models(*, json: Json = False) -> None:
    """List the models that can be named.

    Folders and hub ids (owner/name) of the same families can be given wherever a name can.

    For example:
        diffembed models

    Parameters
    ----------
    json
        Print one JSON line per model.
    """
    from diffembed.doctor import list_models

    rows = list_models()
    if json:
        for row in rows:
            print_json(row)
        return
    print_table(
        ["name", "weights", "licence", "what it is"],
        [[row["name"], row["weights"], row["licence"], row["summary"]] for row in rows],
    )
