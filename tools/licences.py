"""Write docs/licences.md: licences of all that an installation brings, and of all weights.

python tools/licences.py docs/licences.md

It asks the metadata of the packages that are installed (`make licences` installs every extra); one that is
not there is named, and the exit status is 1.  Python 3.11 or newer.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from maskrcnn.config import load
from maskrcnn.files import write_text
from maskrcnn.weights.published import SHIPPED, PublishedFile

ROOT = Path(__file__).resolve().parent.parent
#: What stands in classifiers and in free text, as SPDX calls it.
SPDX = {
    "MIT License": "MIT",
    "Apache Software License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache License v2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2": "Apache-2.0",
    "BSD License": "BSD",
    "3-Clause BSD License": "BSD-3-Clause",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Other/Proprietary License": "proprietary",
    "NVIDIA Proprietary Software": "proprietary",
    "LicenseRef-NVIDIA-Proprietary": "proprietary",
    "2-clause BSD License": "BSD-2-Clause",
    "FreeBSD": "BSD-2-Clause",
}
#: Packages whose own metadata do not say it, and what the licence file that they bring says.
IN_THEIR_FILES = {"faster-coco-eval": "Apache-2.0"}
HEAD = """# Licences

[all pages](../README.md#where-to-read-on)

The project itself is under the Apache License, version 2.0 ([LICENSE](../LICENSE)). What is installed
with it and fetched by it has its own; this page is made by `make licences` (`tools/licences.py`), of the
packages' own metadata and of the registry of weights. It is no legal advice.

## Packages

`by`: core comes with every installation, else the extra that brings it. CUDA's libraries (`nvidia-...`,
`cuda-...`) come with PyTorch's builds for NVIDIA's GPUs; its CPU builds do without.

| package | licence | by |
|---|---|---|
"""
WEIGHTS = """
## Weights

None is part of the project; `maskrcnn weights fetch`, or a config that names one, gets it from its
publisher. What the publisher states is repeated, and nothing made up: *not stated* means that no licence is
named for the weights, which may carry terms of the data that they were trained on. `maskrcnn weights list
--json` has each with its address.

| weights | licence | from |
|---|---|---|
"""
TIMM = (
    "| `timm/<model>.<tag>` | each as its page on the Hugging Face hub says; many are of ImageNet-1k, whose"
    " terms are for research alone | huggingface.co |\n"
)


def wanted() -> dict[str, set[str]]:
    """Packages by name, with what asks for them: ``core`` or an extra; what these need is followed."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, set[str]] = {}
    for extra, names in {"core": project["dependencies"], **project["optional-dependencies"]}.items():
        ahead = [Requirement(name) for name in names]
        while ahead:
            asked = ahead.pop()
            name = canonicalize_name(asked.name)
            if name == "maskrcnn" or extra in found.get(name, ()):
                continue
            found.setdefault(name, set()).add(extra)
            try:
                needs = [Requirement(need) for need in metadata.requires(name) or ()]
            except metadata.PackageNotFoundError:
                continue
            marks = [{"extra": wish} for wish in asked.extras] or [{"extra": ""}]
            ahead += [n for n in needs if n.marker is None or any(n.marker.evaluate(mark) for mark in marks)]
    return found


def licence_of(name: str) -> str:
    """By its expression, else its classifiers, else its free text where that is a line."""
    found = metadata.metadata(name)
    if expression := found.get("License-Expression"):
        return SPDX.get(expression, expression)
    classifiers = [
        c.rpartition(" :: ")[2] for c in found.get_all("Classifier") or () if c.startswith("License")
    ]
    named = dict.fromkeys(SPDX.get(c, c) for c in classifiers if c != "OSI Approved")
    text = (found.get("License") or "").strip()
    free = SPDX.get(text, text) if len(text) < 60 and "\n" not in text and text != "UNKNOWN" else ""
    return IN_THEIR_FILES.get(name) or " or ".join(named) or free or "**not stated**"


def packages() -> tuple[list[str], list[str]]:
    """A row each of those that are installed, and the names of the others."""
    rows, missing = [], []
    for name, extras in sorted(wanted().items()):
        try:
            licence = licence_of(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        rows.append(f"| {name} | {licence} | {'core' if 'core' in extras else ', '.join(sorted(extras))} |\n")
    return rows, missing


def weights() -> list[str]:
    """A row each of the registry's."""
    known = load(PublishedFile, SHIPPED).weights
    return [
        f"| `{n}` | {w.licence or '*not stated*'} | {urlsplit(w.url).hostname} |\n" for n, w in known.items()
    ]


def main() -> int:
    rows, missing = packages()
    if missing:
        print(f"not installed here, so their licence is not known: {', '.join(missing)}", file=sys.stderr)
        return 1
    write_text(Path(sys.argv[1]), HEAD + "".join(rows) + WEIGHTS + "".join(weights()) + TIMM)
    return 0


if __name__ == "__main__":
    sys.exit(main())
