"""Crawls with openstacksdk, to which a job's url is the `image_endpoint_override`; arguments are those of `image.images`."""

import openstack

from tests.harness.clients.jobs import Job, serve


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
        return [image.id for image in cloud.image.images(limit=job["page_size"], **job["arguments"])]


if __name__ == "__main__":
    serve(crawl)
