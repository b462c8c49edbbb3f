"""Images and tokens to begin with: the same for the same seed, on every machine."""

import random
import uuid
from collections.abc import Iterable, Iterator, Mapping

from proxy.demo.catalogue import Catalogue
from proxy.demo.filters import Caller
from proxy.demo.image import Image, Member, format_time

ALPHA_PROJECT = "a1fa0000000000000000000000000001"
BETA_PROJECT = "be7a0000000000000000000000000002"
GOLD_PROJECT = "601d0000000000000000000000000003"
EMPTY_PROJECT = "e3b70000000000000000000000000004"

TOKENS: Mapping[str, Caller] = {
    "demo-token-alpha": Caller("demo-user-alpha", ALPHA_PROJECT),
    "demo-token-alpha-reader": Caller("demo-user-alpha-reader", ALPHA_PROJECT, ("reader",)),
    "demo-token-beta": Caller("demo-user-beta", BETA_PROJECT),
    "demo-token-empty": Caller("demo-user-empty", EMPTY_PROJECT),
    "demo-token-ops": Caller("demo-user-ops", GOLD_PROJECT, ("admin",)),
}
"""Fake tokens, two of them of one project, and one of a project that owns nothing."""

PLATFORMS = (
    ("Ubuntu", "Ubuntu 24.04 server 64bit", "Linux"),
    ("CentOS", "CentOS 7.9 64bit", "Linux"),
    ("EulerOS", "EulerOS 2.12 64bit", "Linux"),
    ("Debian", "Debian 12.5.0 64bit", "Linux"),
    ("Windows", "Windows Server 2022 Standard 64bit", "Windows"),
    ("Oracle Linux", "Oracle Linux 9.4 64bit", "Linux"),
)
NAMES = ("web", "db", "batch", "build-agent", "黄金镜像", "café", "a,b", 'say "hi"', "R&D; test", "50% + 1")
TAGS = ("env.prod", "env.test", "team=core", "release candidate", "环境.生产", "a.b", "a=b=c", "nightly")
DISK_FORMATS = ("zvhd2", "zvhd2", "zvhd2", "qcow2", "vhd", "raw", "iso")
FIRST_CREATED_S = 1_735_689_600
"""The oldest image is of 2025-01-01T00:00:00Z."""
IMAGES_PER_TIMESTAMP = 4
"""So many images in a row share one second of creation."""
TIMESTAMP_STEP_S = 977


def make_demo_catalogue(count: int = 400, *, seed: int = 1) -> Catalogue:
    """Return a catalogue with *count* images: half of it alpha's, a quarter beta's, a quarter public."""
    return Catalogue(generate_images(count, seed=seed))


def generate_images(
    count: int, *, seed: int = 1, owners: Iterable[str] = (ALPHA_PROJECT, BETA_PROJECT, ALPHA_PROJECT, GOLD_PROJECT)
) -> Iterator[Image]:
    """Yield *count* images, the owners taking turns; what belongs to GOLD is public, about 1 KB of JSON each."""
    dice = random.Random(seed)  # noqa: S311  # not a secret: the same images every time are the point
    turns = tuple(owners)
    for number in range(count):
        yield _generate_image(dice, number, turns[number % len(turns)])


def _generate_image(rng: random.Random, number: int, owner: str) -> Image:
    image_id = str(uuid.UUID(bytes=rng.randbytes(16), version=4))
    created_s = FIRST_CREATED_S + number // IMAGES_PER_TIMESTAMP * TIMESTAMP_STEP_S
    kind = "gold" if owner == GOLD_PROJECT else rng.choices(("private", "shared"), (4, 1))[0]
    status = "active" if kind == "gold" else rng.choices(("active", "queued", "saving"), (18, 1, 1))[0]
    finished = status == "active"
    platform, version, system = rng.choice(PLATFORMS)
    tags = [] if kind == "gold" else sorted(rng.sample(TAGS, rng.randrange(4)))
    document: dict[str, object] = {
        "schema": "/v2/schemas/image",
        "id": image_id,
        "name": version if kind == "gold" else f"{rng.choice(NAMES)}-{rng.randrange(60):02}",
        "status": status,
        "visibility": {"gold": "public"}.get(kind, kind),
        "owner": owner,
        "protected": kind == "gold",
        "container_format": "bare",
        "disk_format": rng.choice(DISK_FORMATS),
        "size": rng.randrange(1, 1 << 34) if finished else None,
        "virtual_size": None,
        "checksum": rng.randbytes(16).hex() if finished else None,
        "min_ram": rng.choice((0, 0, 512, 2048)),
        "min_disk": rng.choice((40, 40, 60, 100)),
        "tags": tags,
        "created_at": format_time(created_s),
        "updated_at": format_time(created_s + rng.randrange(3600)) if finished else None,
        "self": f"/v2/images/{image_id}",
        "file": f"/v2/images/{image_id}/file",
        **_generate_ims_attributes(rng, kind, platform, version, system),
    }
    return Image(document, _generate_members(rng, owner, kind, timestamp=format_time(created_s)))


def _generate_ims_attributes(
    rng: random.Random, image_type: str, platform: str, version: str, system: str
) -> dict[str, object]:
    """Return the attributes of IMS beyond those of Glance (IMS API reference, image attributes): open-ended strings."""
    size_bytes = rng.randrange(1 << 30)
    attributes: dict[str, object] = {
        "__imagetype": image_type,
        "__isregistered": "true",
        "__platform": platform,
        "__os_type": system,
        "__os_version": version,
        "__os_bit": "64",
        "__image_size": str(size_bytes),
        "__image_source_type": "uds",
        "__image_location": f"192.0.2.7:5080:demo-bucket:{rng.randbytes(12).hex()}",
        "__image_displayname": f"{version} (demo)",
        "__description": "Text that looks like a link: /v2/images?marker=none",
        "__root_origin": "file",
        "__support_kvm": "true",
        "__os_feature_list": '{"onekey_resetpasswd": "true"}',
        "__lazyloading": "true",
        "__account_code": "",
        "enterprise_project_id": "0",
        "virtual_env_type": "FusionCompute",
        "architecture": rng.choice(("x86", "x86", "arm")),
        "hw_firmware_type": "bios",
    }
    if rng.randrange(5) == 0:
        attributes |= {"__support_xen": "true", "__system_support_market": True}
    if rng.randrange(7) == 0:
        attributes |= {"__whole_image": "true", "__backup_id": rng.randbytes(16).hex()}
    return attributes


def _generate_members(rng: random.Random, owner: str, image_type: str, *, timestamp: str) -> dict[str, Member]:
    """Return who a shared image is offered to: the other of the two projects, which has answered in its own way."""
    if image_type != "shared":
        return {}
    other = BETA_PROJECT if owner == ALPHA_PROJECT else ALPHA_PROJECT
    return {other: Member(other, rng.choice(("accepted", "accepted", "pending", "rejected")), timestamp, timestamp)}
