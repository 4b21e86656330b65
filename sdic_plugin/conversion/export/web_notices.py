"""The texts that go with a site: whose its parts are, and the card of a static Space."""

from __future__ import annotations

import json
import re
from typing import Any

from sdic_plugin.conversion.export.web_runtime import RUNTIME_LICENSE, RUNTIME_VERSION
from sdic_plugin.hub.cards import license_entries
from sdic_plugin.images.face_detection import BUNDLED as YUNET
from sdic_plugin.version import __version__

APACHE = "Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0"
SHORTEST_TITLE = "SDIC"

CARD = """---
title: {title}
emoji: 🖼️
colorFrom: yellow
colorTo: gray
sdk: static
app_file: index.html
{license}tags:
  - gan-inversion
  - stylegan2
  - image-editing
short_description: Edit a photo in your browser, keep its detail
custom_headers:
  cross-origin-embedder-policy: require-corp
  cross-origin-opener-policy: same-origin
  cross-origin-resource-policy: cross-origin
---

# Edit a photo in the browser

This site inverts and edits a photo wholly in the visitor's browser: photos are sent nowhere. It was written by
`sdic export web` (sdic_plugin {version}) and is static, so that any web server can serve it; `NOTICES.txt` says whose
its parts are.
"""


def space_card(name: str, license: str | None) -> str:
    """Write the README.md of a static Space; its headers let browsers use several threads.

    Args:
        name: Of the model.
        license: Of its generator, one that the Hub knows ("apache-2.0", in any case) or any other name; None if
            unknown.
    """
    title = re.sub(r"[^\w .-]+", " ", name).strip() or SHORTEST_TITLE
    entries = license_entries(license) if license else {}
    # A JSON string is one of YAML, whatever is in it.
    known = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in entries.items())
    return CARD.format(title=f'"{title} in the browser"', license=known, version=__version__)


def written_notices(name: str, site: dict[str, Any], has_detector: bool, notice: str | None = None) -> str:
    """Write NOTICES.txt: the model with its own notice, the page, ONNX Runtime Web, and YuNet where it is there."""
    own = "" if notice is None else f"\n\n{notice.strip().lstrip('# ')}"
    parts = [
        f"The model {name}\n\nSource: {site['source'] or 'not stated'}\nLicence: {site['license'] or 'not stated'}\n"
        f"Its weights were written as ONNX graphs, with numbers of lower precision.{own}",
        "The page (index.html, page.css, icon.svg, page.js, worker.js, support.js)\n\n"
        f"sdic_plugin {__version__}, {APACHE}",
        f"ONNX Runtime Web {RUNTIME_VERSION} (folder runtime)\n\n"
        "From npm's package onnxruntime-web, unchanged but for gzip. "
        f"Notices of its parts: https://github.com/microsoft/onnxruntime/blob/v{RUNTIME_VERSION}/ThirdPartyNotices.txt\n\n"
        + RUNTIME_LICENSE.strip(),
    ]
    if has_detector:
        notice = (YUNET.parent / "NOTICE.md").read_text(encoding="utf-8").strip().lstrip("# ")
        notice = notice.replace("It is unchanged, and its", "Its")
        changed = "Changed for this site: its graph takes pictures of any size. Weights are unchanged."
        parts.append(f"{notice}\n\n{changed}\n{APACHE}")
    return ("\n\n" + "-" * 80 + "\n\n").join(parts) + "\n"
