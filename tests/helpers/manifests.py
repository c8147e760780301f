"""Edits the manifests of artefacts."""

import json
from pathlib import Path
from typing import Any

from scotd_jax.digests import digest


def edit_manifest(artefact: Path, **changes: Any) -> None:
    """Replaces entries of the manifest of the artefact in a folder, and its checksum accordingly."""
    path = artefact / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    del manifest["checksum"]
    path.write_text(json.dumps(manifest | {"checksum": digest(manifest)}, indent=2))
