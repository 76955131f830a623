"""Refuse a tag that is not the version of every distribution and file that names one."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[2]


def problems(tag: str, root: Path = ROOT) -> list[str]:
    """Return what stands against a release.

    Parameters
    ----------
    tag
        Such as ``v0.1.0``.
    root
        Of the repository.
    """
    try:
        version = Version(tag.removeprefix("v"))
    except InvalidVersion:
        return [f"{tag} is no version"]
    if f"v{version}" != tag:
        return [f"{tag} is written v{version}"]
    found = []
    for file in (root / "pyproject.toml", *sorted(root.glob("plugins/*/pyproject.toml"))):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        if Version(project["version"]) != version:
            found.append(f"{project['name']} has version {project['version']}, the tag says {tag}")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (?:\[?([^\]\s]+)\]?)(?: - (\d{4}-\d{2}-\d{2}))?$", changelog, re.M)
    dated = [name for name, date in heads if date]
    if not dated or dated[0] != str(version):
        newest = (
            f"{dated[0]}, not {version}" if dated else f"missing: no ## {version} - YYYY-MM-DD"
        )
        found.append(f"the newest dated part of CHANGELOG.md is {newest}")
    for file, line in (
        ("CITATION.cff", f"version: {version}"),
        ("docs/packaging/meta.yaml", f"version: {tag}"),
        ("pipelines/snakemake/environment.yaml", f"- episome[all]=={version}"),
    ):
        lines = (root / file).read_text(encoding="utf-8").splitlines()
        if line not in (text.strip() for text in lines):
            found.append(f"{file} does not say {line}")
    return found


if __name__ == "__main__":
    said = problems(sys.argv[1])
    sys.stderr.write("".join(f"{line}\n" for line in said))
    sys.exit(1 if said else 0)
