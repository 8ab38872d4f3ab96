"""The embeddings API as a Ray Serve deployment: the application of `diffembed serve`, one model a replica.

    serve run recipes.serving.ray_serve:build model=gemma-3-270m replicas=4

Ray places the replicas on the machines of its cluster and balances between them; each has a queue and a batcher of its
own. Needs `diffembed[serve]` and `ray[serve]` on every machine.
"""

from typing import Any

from fastapi import FastAPI
from ray import serve


def build(options: dict[str, Any]) -> serve.Application:
    """options: model, dtype (auto), replicas (1), gpus (0, for each replica)."""
    model, dtype = options["model"], options.get("dtype", "auto")

    def application() -> FastAPI:
        # Runs inside the replica, where the weights are needed.
        from diffembed import Embedder
        from diffembed.serve.app import make_app
        from diffembed.serve.engine import Engine

        engine = Engine(Embedder.load(model, dtype=dtype))
        return make_app({engine.name: engine})

    deployment = serve.deployment(
        serve.ingress(application)(),
        num_replicas=int(options.get("replicas", 1)),
        ray_actor_options={"num_gpus": float(options.get("gpus", 0))},
        # The batcher wants many requests at once, and refuses by itself when its queue is full.
        max_ongoing_requests=256,
    )
    return deployment.bind()
