"""Crawls with python-glanceclient; as `glance image-list` does."""

from glanceclient import client as glance_client

from tests.support.clients.jobs import Job, serve


def crawl(job: Job) -> list[str]:
    """Return the ids of all pages in the order the client yields them."""
    client = glance_client.Client("2", endpoint=job["url"], token=job["token"])
    images = client.images.list(page_size=job["page_size"], filters=job["filters"], **job["sort"])
    return [image["id"] for image in images]


if __name__ == "__main__":
    serve(crawl)
