"""The images that every run has: the same 2,000, derived from their number alone."""

import random
import uuid
from dataclasses import dataclass, field

COUNT = 2000
PROJECTS = ("alpha", "beta", "gamma", "delta")
OPERATOR = "ops"
"""Who owns the public images."""

BATCH_TAG = "batch-of-500"
BATCH_COUNT = 500
"""So many public images, which everybody's default list shows, carry BATCH_TAG, and no others do."""

_EPOCH_S = 1_600_000_000
_TAGS = ("env=prod", "env=dev", "a.b", "中文=标签", "two words", "1+1", "a&b", "plain")
_PLATFORMS = ("Ubuntu", "CentOS", "EulerOS", "Windows", "Debian", "Oracle Linux", "Other")
_IMAGE_TYPES = {"public": "gold", "private": "private", "shared": "shared", "community": "market"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What the database is to hold of one image; times are seconds since 1970."""

    id: str
    name: str | None
    owner: str
    visibility: str
    status: str
    size: int | None
    created_at: int
    updated_at: int
    disk_format: str | None
    container_format: str | None
    min_disk: int
    min_ram: int
    protected: bool
    os_hidden: bool
    deleted: bool
    tags: tuple[str, ...]
    properties: dict[str, str] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    """The projects it is shared with, and what each has said to that."""


def images() -> list[Image]:
    """Return all of them by number; about one in forty is deleted and beyond COUNT."""
    kept: list[Image] = []
    gone: list[Image] = []
    batch_left = BATCH_COUNT
    for number in range(COUNT + COUNT // 40):
        deleted = number % 41 == 40
        image = _image(number, deleted=deleted, in_batch=batch_left > 0)
        batch_left -= BATCH_TAG in image.tags
        (gone if deleted else kept).append(image)
    return kept + gone


def _image(number: int, *, deleted: bool, in_batch: bool) -> Image:
    dice = random.Random(number)
    visibility = dice.choices(["public", "private", "shared", "community"], [36, 34, 22, 8])[0]
    owner = OPERATOR if visibility == "public" else dice.choice(PROJECTS)
    status = dice.choices(["active", "queued", "deactivated", "saving"], [88, 8, 3, 1])[0]
    described = status != "queued" or dice.random() < 0.5
    created_at = _EPOCH_S + number // 3 * 7
    platform = dice.choice(_PLATFORMS)
    tags = {tag for tag in _TAGS if dice.random() < 0.2}
    os_hidden = dice.random() < 0.05
    if in_batch and visibility == "public" and not (deleted or os_hidden):
        tags.add(BATCH_TAG)
    return Image(
        id=str(uuid.UUID(int=dice.getrandbits(128), version=4)),
        name=dice.choice(_names(number, platform)),
        owner=owner,
        visibility=visibility,
        status="deleted" if deleted else status,
        size=dice.choice([0, 1, 1024, 5_368_709_120]) + number % 5 if status in ("active", "deactivated") else None,
        created_at=created_at,
        updated_at=created_at + 86_400 * dice.randrange(30),
        disk_format=dice.choice(["qcow2", "raw", "vhd", "zvhd2", "iso"]) if described else None,
        container_format="bare" if described else None,
        min_disk=dice.choice([0, 10, 40, 100]),
        min_ram=dice.choice([0, 512, 1024]),
        protected=dice.random() < 0.3,
        os_hidden=os_hidden,
        deleted=deleted,
        tags=tuple(sorted(tags)),
        properties=_properties(dice, visibility, platform),
        members=_members(dice, owner) if visibility == "shared" else {},
    )


def _names(number: int, platform: str) -> list[str | None]:
    return [
        f"{platform} {number % 4 + 20}.04 64bit",
        f"镜像-{number}",
        f"镜像 {number % 5}",
        f"R&D+{number % 11}=100%",
        f"same-name-{number % 17}",
        f'it\'s "{number % 7}", they said; twice',
        f"<b>{number}</b>/../?marker=#",
        None,
    ]


def _properties(dice: random.Random, visibility: str, platform: str) -> dict[str, str]:
    kernel = platform if platform in ("Windows", "Other") else "Linux"
    properties = {
        "__imagetype": _IMAGE_TYPES[visibility],
        "__isregistered": dice.choice(["true", "true", "true", "false"]),
        "__os_type": kernel,
        "__platform": platform,
        "__os_bit": dice.choice(["64", "32"]),
        "__description": dice.choice(["", 'a "next": "/v2/images?marker=" of its own', "多行\n说明"]),
        "virtual_env_type": dice.choice(["FusionCompute", "Ironic", "DataImage"]),
        "enterprise_project_id": dice.choice(["0", "7bd1a3cf-54ab-4c5b-9d2b-6a1b0c9e2f11"]),
    }
    if dice.random() < 0.1:
        properties["__support_kvm_gpu_type"] = "V100_vGPU"
    return properties


def _members(dice: random.Random, owner: str) -> dict[str, str]:
    others = [project for project in PROJECTS if project != owner]
    invited = dice.sample(others, dice.randrange(len(others) + 1))
    return {project: dice.choice(["accepted", "accepted", "pending", "rejected"]) for project in invited}
