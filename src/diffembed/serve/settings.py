"""What a server allows: limits, keys, time.

Read `ServeSettings`. Every limit has a flag of the same name in `diffembed serve`.
"""

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from diffembed.embedding.text import OVERFLOWS, Overflow
from diffembed.errors import ConfigError, InputError, UnknownNameError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeSettings:
    """Limits of one server; the numbers were chosen for one machine and are there to be changed."""

    overflow: Overflow = "error"
    """What happens to a text longer than the model reads when the request does not say: `error` as OpenAI does,
    `truncate`, or `chunk`. Reranking cuts, as every reranker does, and says so."""
    max_body_bytes: int = 32 * 2**20
    """Longest request body, in bytes; > 0."""
    max_texts: int = 16_384
    """Most texts in one request; > 0."""
    max_request_tokens: int = 2**20
    """Most tokens in one request; > 0."""
    max_queue_tokens: int = 2**21
    """Most tokens that wait or are being encoded, by model; a request that does not fit is refused with 429. Half of
    what the model reads within `timeout_s` is the limit where that is less."""
    timeout_s: float = 300.0
    """Longest time from a request to its vectors, in seconds; > 0. Answered with 504 when it has passed."""
    max_searches: int = 64
    """Most searches and explanations that wait, by model; > 0."""
    api_keys: tuple[str, ...] = ()
    """Keys of which a request must bear one; empty lets everybody in."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which the server may be called (`Host`), without a port; empty allows every name. Without keys a server
    on the loopback interface allows only that, lest a page in a browser reach it under a name of its own."""

    def __post_init__(self) -> None:
        if self.overflow not in OVERFLOWS:
            raise UnknownNameError.of("overflow policy", self.overflow, list(OVERFLOWS))
        for name in (
            "max_body_bytes", "max_texts", "max_request_tokens", "max_queue_tokens", "timeout_s", "max_searches",
        ):  # fmt: skip
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0")
        for host in self.allowed_hosts:
            # An IPv6 address has several colons, and brackets only where a port may follow.
            if host.count(":") == 1 or host.startswith("["):
                raise ConfigError(
                    f"the allowed host {host!r} is no bare name; leave out port and brackets: mybox.local"
                )

    def find_key(self, given: str) -> int | None:
        """Position of the key that was given, or `None`; takes the same time whichever it is and however it differs."""
        digest = hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest()
        found = None
        for position, key in enumerate(self.api_keys):
            if hmac.compare_digest(hashlib.sha256(key.encode()).digest(), digest):
                found = position
        return found


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys of a file, one a line; blank lines and lines that begin with # are left out.

    Raises InputError for a file without keys.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text") from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not keys:
        raise InputError(f"{path} has no keys; write one on each line")
    return keys
