"""Whether a component of the depot can be installed in an image, and whether it is made for a machine."""

from __future__ import annotations

from fnmatch import fnmatchcase

from agent.model.image import Component
from agent.model.package_version import missing
from agent.model.profile import Profile
from agent.model.situation import Situation

DEB_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64", "i686": "i386"}
FILES = "directory"  # package format of files without a package
EL = "el"  # in ``for_os``: any system of the RHEL family
EL_SYSTEMS = ("rhel", "rocky", "almalinux", "centos", "ol")
# Whose packages a system takes beside its own: Leap is made of SLES's (its kernels are those, vendor SUSE LLC).
_ALSO = {"opensuse-leap": "sles", **dict.fromkeys(EL_SYSTEMS, EL)}


def unfit(component: Component, situation: Situation) -> str:
    """Why a component cannot be installed in this image; "" when it can.

    Dependencies are looked at roughly here, so that most of what cannot be is told at once; the package tool's own
    solver has the last word (`agent.restore.dependencies`), and what it refuses stands in ``situation.unmet``.
    """
    os = situation.source.os
    if component.id in situation.unmet:
        return situation.unmet[component.id]
    if component.package_format not in (os.package_format, FILES):
        return f"it is a {component.package_format} package, the image takes {os.package_format}"
    architecture = situation.source.platform.architecture
    fitting = (DEB_ARCHITECTURE.get(architecture, architecture), architecture, "all", "noarch")
    if component.architecture not in fitting:
        return f"it is for {component.architecture}, the image is {architecture}"
    if why := _other_system(component, situation.source):
        return why
    if component.models and not model_rank(component, situation.target):
        names = ", ".join(f"{vendor} {product}" for vendor, product in component.models)
        return f"it is for {names}"
    if situation.source.packages and component.package_format == "deb":
        brought = {c.id: c.version for c in situation.components if c.package_format == "deb"}
        lacking = missing(component.depends, situation.source.packages, brought)
        if lacking:
            return f"neither image nor depot has {', '.join(lacking)}"
    return ""


def _other_system(component: Component, source: Profile) -> str:
    """``for_os`` names an id, perhaps with a version or its first number."""
    os = source.os
    takes = [f"{name} {os.version} " for name in (os.id, _ALSO.get(os.id)) if name]
    wanted = component.for_os
    if not wanted or any(one.startswith((f"{wanted} ", f"{wanted}.")) for one in takes):
        return ""
    here = f"{os.id} {os.version}".strip()
    return f"it is for {wanted}, the image is {here} (if that is wrong, add it again with --for-os)"


def model_rank(component: Component, target: Profile) -> int:
    """1 for a component that names this machine's vendor and product, else 0."""
    platform = target.platform
    return int(any(
        fnmatchcase(platform.system_vendor, vendor) and fnmatchcase(platform.product_name, product)
        for vendor, product in component.models
    ))  # fmt: skip
