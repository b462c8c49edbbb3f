"""What there is to begin with."""

import re
from collections import Counter

from proxy.demo.seed import (
    ALPHA_PROJECT,
    BETA_PROJECT,
    GOLD_PROJECT,
    IMAGES_PER_TIMESTAMP,
    TOKENS,
    generate_images,
    make_demo_catalogue,
)


def test_the_same_seed_gives_the_same_images() -> None:
    """A seed stands for its images, and another one for others."""
    assert list(generate_images(50, seed=3)) == list(generate_images(50, seed=3))
    assert {image.id for image in generate_images(50, seed=3)}.isdisjoint(
        image.id for image in generate_images(50, seed=4)
    )


def test_a_longer_seeding_begins_with_the_shorter() -> None:
    """More images begin with the same ones."""
    assert list(generate_images(30))[:10] == list(generate_images(10))


def test_ids_look_like_uuid4() -> None:
    """Every id has the form of a random UUID."""
    pattern = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert all(re.fullmatch(pattern, image.id) for image in generate_images(200))


def test_every_kind_of_trouble_is_there() -> None:
    """The demo has ties, nulls, jobs under way, members and odd tags."""
    store = list(make_demo_catalogue(400))
    assert Counter(image.owner for image in store) == {ALPHA_PROJECT: 200, BETA_PROJECT: 100, GOLD_PROJECT: 100}
    assert Counter(Counter(image.get_text("created_at") for image in store).values()) == {IMAGES_PER_TIMESTAMP: 100}
    assert {"queued", "saving", "active"} == {image.get_text("status") for image in store}
    assert any(image.get_number("size") is None and image.get_time("updated_at") is None for image in store)
    assert {member.status for image in store for member in image.members.values()} == {
        "accepted",
        "pending",
        "rejected",
    }
    assert {"a.b", "team=core", "release candidate", "环境.生产"} <= {tag for image in store for tag in image.tags}


def test_an_image_is_about_a_kilobyte() -> None:
    """An image is as long as a real one, on average."""
    assert 1000 < sum(len(image.json_bytes) for image in generate_images(100)) / 100 < 1500


def test_tokens_are_obviously_fake() -> None:
    """No token could be taken for a real one."""
    assert all(token.startswith("demo-token-") for token in TOKENS)
