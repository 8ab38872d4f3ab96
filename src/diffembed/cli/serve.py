"""`diffembed serve`."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from diffembed.cli.options import DEFAULT_MODEL, Attention, Dtype, Json, Pooling, say_default
from diffembed.cli.printing import print_json
from diffembed.errors import ConfigError, MissingExtraError


def serve(
    *,
    model: Annotated[list[str] | None, Parameter(name=["--model", "-m"])] = None,
    index: list[str] | None = None,
    documents: Annotated[Path | None, Parameter(validator=validators.Path(exists=True))] = None,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))] = 8000,
    api_key_file: Annotated[Path | None, Parameter(validator=validators.Path(exists=True, dir_okay=False))] = None,
    allowed_host: list[str] | None = None,
    attention: Attention = None,
    pooling: Pooling = None,
    dtype: Dtype = "auto",
    max_tokens: int | None = None,
    token_budget: int | None = None,
    truncate: Literal["error", "truncate", "chunk"] = "error",
    max_body_bytes: int = 32 * 2**20,
    max_texts: int = 16_384,
    max_request_tokens: int = 2**20,
    max_queue_tokens: int = 2**21,
    max_searches: int = 64,
    timeout_s: float = 300.0,
    drain_s: Annotated[float, Parameter(validator=validators.Number(gte=0))] = 2.0,
    json: Json = False,
) -> None:
    """Serve an OpenAI-compatible embeddings API and a search page.

    The log is one JSON line per request on standard error and holds no texts. The page is at the address that is
    printed. SIGTERM answers what was accepted, then ends.

    For example:
        diffembed serve --documents docs --model all-minilm-l6-v2

    Parameters
    ----------
    model
        A name, a folder or a hub id, or NAME=LOCATION; several can be served, the first is the default; those that
        made the indexes if none is given, or gemma-3-270m-diffusion. One that made an index is loaded as it was then.
    index
        Name or folder of an index to search; several can be given.
    documents
        A folder or file to encode at the start and search in memory.
    host
        Address to listen at; the default is reached from this machine only.
    port
        Port to listen at; 0 takes a free one.
    api_key_file
        File of keys, one a line, of which a request must bear one.
    allowed_host
        Name by which requests may call the server; on the loopback interface without keys only its own names else.
    attention
        Let tokens see both sides or only the past; the model's own if none is given.
    pooling
        How token states become one vector; the model's own if none is given.
    dtype
        Number format of the network; auto is the faster one, as measured.
    max_tokens
        Longest text read whole; the model's own limit if none is given.
    token_budget
        Tokens encoded at a time: more is throughput, less is latency; the library's own if none is given.
    truncate
        What happens to a longer text when the request does not say.
    max_body_bytes
        Longest request body.
    max_texts
        Most texts in one request.
    max_request_tokens
        Most tokens in one request.
    max_queue_tokens
        Most tokens that wait, by model; less where they could not be answered in time.
    max_searches
        Most searches that wait, by model.
    timeout_s
        Longest time from a request to its answer, in seconds.
    drain_s
        After SIGTERM, how long connections are still taken, in seconds.
    json
        Print the address as one JSON line.
    """
    try:
        from diffembed.serve.server import serve as run
    except ModuleNotFoundError as error:
        raise MissingExtraError.of(error.name or "fastapi", "serve") from error
    from diffembed.embedding.embedder import Embedder, location_of
    from diffembed.serve.server import models_of
    from diffembed.serve.settings import ServeSettings, read_keys

    settings = ServeSettings(
        overflow=truncate,
        max_body_bytes=max_body_bytes,
        max_texts=max_texts,
        max_request_tokens=max_request_tokens,
        max_queue_tokens=max_queue_tokens,
        max_searches=max_searches,
        timeout_s=timeout_s,
        api_keys=read_keys(api_key_file) if api_key_file else (),
        allowed_hosts=tuple(allowed_host or ()),
    )

    def say(facts: dict[str, Any]) -> None:
        if json:
            print_json(facts)
        else:
            print(f"serving {', '.join(facts['models'])} at {facts['url']}")
        sys.stdout.flush()

    # A model that made one of the indexes is loaded as it was then, also where it is named.
    stored = models_of(index or [])
    models = model or list(stored)
    say_default(models[0] if models else None)
    asked = {"attention": attention, "pooling": pooling, "max_tokens": max_tokens, "token_budget": token_budget}
    asked = {key: value for key, value in asked.items() if value is not None}

    def load(location: str) -> Embedder:
        made = stored.get(location_of(location), {})
        for name, value in asked.items():
            if made.get(name, value) != value:
                raise ConfigError(
                    f"an index was made by {location} with {name} {made[name]}, so its questions cannot be read with "
                    f"{value}; leave out --{name.replace('_', '-')}, or serve the model without the index"
                )
        return Embedder.load(location, dtype=dtype, **{**made, **asked})

    run(
        models or [DEFAULT_MODEL],
        indexes=index or [],
        documents=documents,
        settings=settings,
        host=host,
        port=port,
        drain_s=drain_s,
        on_listening=say,
        load=load,
    )
