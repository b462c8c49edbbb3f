"""Crawls with openstacksdk, which is given a job's url as its `image_endpoint_override`."""

import openstack

from tests.support.clients.jobs import Job, serve


def crawl(job: Job) -> list[str]:
    """Return the ids of all pages in the order the client yields them."""
    cloud = openstack.connect(
        load_yaml_config=False,
        load_envvars=False,
        auth_type="admin_token",
        auth={"endpoint": job["url"], "token": job["token"]},
        image_endpoint_override=job["url"],
    )
    with cloud:
        images = cloud.image.images(limit=job["page_size"], **job["filters"], **job["sort"])
        return [image.id for image in images]


if __name__ == "__main__":
    serve(crawl)
