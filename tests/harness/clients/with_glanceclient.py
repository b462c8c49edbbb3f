"""Crawls with python-glanceclient; a job's arguments are those of its `images.list`."""

from glanceclient import client as glance_client

from tests.harness.clients.jobs import Job, serve


def crawl(job: Job) -> list[str]:
    """Return the ids of all pages in the order the client yields them."""
    client = glance_client.Client("2", endpoint=job["url"], token=job["token"])
    return [image["id"] for image in client.images.list(page_size=job["page_size"], **job["arguments"])]


if __name__ == "__main__":
    serve(crawl)
