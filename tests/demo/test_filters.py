"""Each documented filter against a handful of images."""

import pytest

from proxy.demo.catalogue import Catalogue
from proxy.demo.query import ImsError
from tests.support.demo_images import an_image, ids

STORE = Catalogue(
    [
        an_image("gold", visibility="public", owner="ims", protected=True, __imagetype="gold", __os_bit="64"),
        an_image("tagged", tags=["a.b", "x=y", "two words", "环境"], name="web,1", created_at="2025-03-01T12:00:00Z"),
        an_image("queued", status="queued", size=None, name=None, updated_at=None),
        an_image("large", size=900, min_ram=512, min_disk=100, disk_format="qcow2", name='say "hi"'),
        an_image("hidden", os_hidden=True),
        an_image("market", __system_support_market=True, __count=7, limit_of="a"),
    ]
)
ALL = {"gold", "tagged", "queued", "large", "market"}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        pytest.param("", ALL, id="no filter, no hidden ones"),
        pytest.param("__imagetype=gold&visibility=public&protected=true", {"gold"}, id="the documented gold query"),
        pytest.param("__imagetype=Gold", set(), id="case counts"),
        pytest.param("__imagetype=+gold", set(), id="spaces count"),
        pytest.param("owner=ims", {"gold"}, id="owner"),
        pytest.param("protected=false", ALL - {"gold"}, id="not protected"),
        pytest.param("visibility=", set(), id="empty visibility"),
        pytest.param("visibility=all", ALL, id="visibility all"),
        pytest.param("visibility=all&visibility=public", {"gold"}, id="both of two visibilities"),
        pytest.param("visibility=private&visibility=public", set(), id="two visibilities that exclude each other"),
        pytest.param("id=large", {"large"}, id="id"),
        pytest.param("id=in:large,gold", {"large", "gold"}, id="id in"),
        pytest.param("status=queued", {"queued"}, id="status"),
        pytest.param("status=in:queued,active", ALL, id="status in"),
        pytest.param("name=name+of+gold", {"gold"}, id="name"),
        pytest.param("name=eq:name+of+gold", {"gold"}, id="name eq"),
        pytest.param("name=web,1", {"tagged"}, id="a comma in a name"),
        pytest.param('name=in:"web,1",name+of+gold', {"tagged", "gold"}, id="a quoted comma"),
        pytest.param("name=in:,web", set(), id="an empty item"),
        pytest.param("name=gold&name=name+of+gold", {"gold"}, id="the last of two names"),
        pytest.param("disk_format=in:qcow2,raw", {"large"}, id="disk_format in"),
        pytest.param("container_format=bare", ALL, id="container_format"),
        pytest.param("tag=a=b", {"tagged"}, id="a.b is asked for as a=b"),
        pytest.param("tag=a.b", {"tagged"}, id="and as itself"),
        pytest.param("tag=x=y", {"tagged"}, id="an equals sign that is stored"),
        pytest.param("tag=x.y", set(), id="a dot does not stand for an equals sign"),
        pytest.param("tag=two+words&tag=%E7%8E%AF%E5%A2%83", {"tagged"}, id="tags are conjoined"),
        pytest.param("tag=a=b&tag=none", set(), id="all tags must match"),
        pytest.param("min_ram=512", {"large"}, id="min_ram"),
        pytest.param("min_ram=%2B0512.0", {"large"}, id="a number in another spelling"),
        pytest.param("min_ram=much", set(), id="min_ram that is no number"),
        pytest.param("min_disk=40", ALL - {"large"}, id="min_disk"),
        pytest.param("size_min=2", {"large"}, id="size_min"),
        pytest.param("size_max=2", ALL - {"large", "queued"}, id="null is not small"),
        pytest.param("size_min=1&size_max=899", ALL - {"large", "queued"}, id="a range"),
        pytest.param("min_ram_min=1", {"large"}, id="min_ram_min"),
        pytest.param("created_at=gt:2025-01-01T00:00:00Z", {"tagged"}, id="gt"),
        pytest.param("created_at=gt:2025-01-01+00:00:00", {"tagged"}, id="the spelling with a space"),
        pytest.param("created_at=gte:2025-01-01%2000:00:00", ALL, id="gte"),
        pytest.param("created_at=lt:2025-03-01T12:00:00Z", ALL - {"tagged"}, id="lt"),
        pytest.param("created_at=lte:2025-03-01T12:00:00Z", ALL, id="lte"),
        pytest.param("created_at=eq:2025-03-01T12:00:00Z", {"tagged"}, id="eq"),
        pytest.param("created_at=2025-03-01T12:00:00Z", {"tagged"}, id="a bare time"),
        pytest.param("created_at=2025-03-01T20:00:00%2B08:00", {"tagged"}, id="an offset"),
        pytest.param("updated_at=neq:2024-01-01T00:00:00Z", ALL - {"queued"}, id="null is not unequal"),
        pytest.param("os_hidden=True", {"hidden"}, id="hidden, in any case"),
        pytest.param("__system_support_market=true", {"market"}, id="a real boolean"),
        pytest.param("__count=7", {"market"}, id="a number"),
        pytest.param("limit_of=a", {"market"}, id="an unknown name"),
        pytest.param("deleted=true", ALL, id="deleted is overruled"),
        pytest.param("limit=5&limit=5", set(), id="two limits"),
        pytest.param("name=", set(), id="null is not empty"),
    ],
)
def test_found(query: str, found: set[str]) -> None:
    """A query finds the images that it describes, and no others."""
    assert set(ids(STORE, query)) == found


@pytest.mark.parametrize(
    ("query", "status"),
    [
        pytest.param("protected=True", 400, id="protected in another case"),
        pytest.param("protected=", 400, id="protected empty"),
        pytest.param("os_hidden=no", 400, id="os_hidden"),
        pytest.param("created_at=GT:2025-01-01T00:00:00Z", 400, id="operator in upper case"),
        pytest.param("created_at=gt:yesterday", 400, id="no time"),
        pytest.param("created_at=", 400, id="empty time"),
        pytest.param("updated_at=gt:0001-01-01T00:00:00%2B23:00", 400, id="a time before time"),
        pytest.param("name=like:web", 400, id="unknown operator"),
        pytest.param('name=in:"web', 400, id="an open quote"),
        pytest.param('name=in:we"b', 400, id="a quote in the middle"),
        pytest.param("size_min=big", 400, id="bound that is no number"),
        pytest.param("foo_min=1&protected=no", 400, id="protected before that bound"),
        pytest.param("foo_min=1", 500, id="bound of what is no number"),
    ],
)
def test_refused(query: str, status: int) -> None:
    """A filter that Glance can't read is answered 400."""
    with pytest.raises(ImsError) as caught:
        ids(STORE, query)
    assert caught.value.status == status
