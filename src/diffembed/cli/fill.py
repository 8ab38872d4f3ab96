"""`diffembed fill`."""

from dataclasses import asdict

from diffembed.cli.options import Attention, Dtype, Json
from diffembed.cli.printing import print_json, print_table


def fill(
    text: str,
    /,
    *,
    model: str,
    steps: int | None = None,
    attention: Attention = None,
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Restore the masked tokens of a text with a diffusion model.

    For example:
        diffembed fill "Paris is in [MASK]." --model tiny --attention bidirectional

    Parameters
    ----------
    text
        A text with one [MASK] for every token to restore.
    model
        A diffusion model: a name, a folder, or a hub id.
    steps
        Steps in which the masks are written, surest first; one per mask if none is given.
    attention
        Let tokens see both sides; the model's own if none is given.
    dtype
        Number format of the network; auto is the faster one, as measured.
    json
        Print one JSON line.
    """
    from diffembed.backbones.denoising import Denoiser
    from diffembed.embedding.embedder import Embedder

    filled = Denoiser(Embedder.load(model, attention=attention, dtype=dtype).backbone).fill(text, num_steps=steps)
    if json:
        print_json(asdict(filled))
        return
    print(filled.text)
    rows = [[token.step, token.token, f"{token.probability:.3f}"] for token in filled.tokens]
    print_table(["step", "token", "probability"], rows, numbers=["step", "probability"])
