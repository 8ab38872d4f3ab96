"""Whatever the schema allows and much that it does not: no route answers 500, and each answers 200 at least once."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

pytestmark = pytest.mark.slow
KEY = "a-key-of-the-test"
NUM_EXAMPLES = 60
WORKING = {
    ("POST", "/v1/embeddings"): {"input": ["a text", "another"]},
    ("POST", "/v1/rerank"): {"query": "a question", "documents": ["one", "two"]},
    ("POST", "/embed"): {"inputs": ["a text"]},
    ("POST", "/v1/search"): {"query": "how is a lighthouse lit?"},
}


def test_no_input_breaks_a_route(start: Callable, tmp_path: Path) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    import httpx

    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    server = start("--documents", str(Path(__file__).parent / "guide"), "--api-key-file", str(keys))
    headers = {"Authorization": f"Bearer {KEY}"}
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=headers)
    statuses: dict[tuple[str, str], Counter[int]] = {}

    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 8
    for operation in operations:
        key = (operation.method.upper(), operation.path)
        counts = statuses[key] = _fuzz(operation, headers)
        if (body := WORKING.get(key)) is not None:
            counts[httpx.post(f"{server.url}{operation.path}", json=body, headers=headers).status_code] += 1
    for (method, path), counts in statuses.items():
        if "{" not in path:
            assert counts[200] > 0, (method, path, counts)
    assert httpx.get(f"{server.url}/health", headers=headers).status_code == 200


def _fuzz(operation: Any, headers: dict[str, str]) -> Counter[int]:
    """How often each status was answered."""
    counts: Counter[int] = Counter()

    @settings(
        max_examples=NUM_EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy())
    def fuzz(case: Any) -> None:
        answer = case.call(headers=headers, timeout=60)
        counts[answer.status_code] += 1
        assert answer.status_code != 500, (operation.path, case.body, answer.text)

    fuzz()
    return counts
