"""Crawls with huaweicloudsdkims, whose `token` is "access key:secret:project"; it pages by the last id it saw."""

from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkims.v2 import GlanceListImagesRequest, ImsClient

from tests.support.clients.jobs import Job, serve


def crawl(job: Job) -> list[str]:
    """Return the ids of all pages, up to one that is empty."""
    access, secret, project = job["token"].split(":")
    credentials = BasicCredentials(access, secret, project)
    client = ImsClient.new_builder().with_credentials(credentials).with_endpoint(job["url"]).build()
    ids: list[str] = []
    while True:
        marker = {"marker": ids[-1]} if ids else {}
        request = GlanceListImagesRequest(limit=job["page_size"], **job["filters"], **marker, **job["sort"])
        page = [image.id for image in client.glance_list_images(request).images]
        if not page:
            return ids
        ids += page


if __name__ == "__main__":
    serve(crawl)
