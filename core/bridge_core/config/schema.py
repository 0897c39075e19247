"""JSON Schemas of the kinds, for editors: `python -m bridge_core.config.schema FOLDER` writes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bridge_core.config.documents import MODELS


def schemas() -> dict[str, str]:
    """File name to schema, as committed in mesh_config/."""
    result = {}
    for kind, model in MODELS.items():
        schema = model.model_json_schema(by_alias=True)
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        result[f"{kind.lower()}.schema.json"] = json.dumps(schema, indent=2, sort_keys=True) + "\n"
    return result


if __name__ == "__main__":
    for name, text in schemas().items():
        (Path(sys.argv[1]) / name).write_text(text, encoding="utf-8")
