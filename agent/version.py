"""The program's name and version, as manifests, profiles and reports record it."""

VERSION = "0.1.0"
TOOL = f"regraft {VERSION}"
