"""Published files from the hub, weights as safetensors only.

Read `fetch_snapshot`. Code is fetched only when it is asked for and its revision is pinned.
"""

import re
from pathlib import Path

from diffembed.errors import CheckpointError, ConfigError

HUB_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "README.md", "LICENSE*", "NOTICE*")
COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch_snapshot(hub_id: str, revision: str | None, *, allow_remote_code: bool = False) -> Path:
    """The hub's files as they are published, downloaded where the hub cache lacks them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if allow_remote_code and (revision is None or not COMMIT.fullmatch(revision)):
        raise ConfigError(f"remote code of {hub_id} needs a pinned revision: {hub_id}@<40 hex digits of a commit>")
    patterns = [*HUB_FILES, "*.py"] if allow_remote_code else list(HUB_FILES)
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise CheckpointError(
            f"{hub_id} could not be fetched from the hub ({type(error).__name__}); check the name, the connection and "
            f"the access rights, or give a local folder"
        ) from error
