# docker build -t ims-cache-proxy .
# docker run --rm -p 8080:8080 -e IMS_PROXY_UPSTREAM__URL=https://ims.example.com ims-cache-proxy

FROM python:3.13-slim-trixie AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
RUN pip wheel --no-cache-dir --wheel-dir /wheels .
RUN python -m venv --without-pip /opt/ims-proxy \
    && pip --python /opt/ims-proxy/bin/python install --no-cache-dir --no-index --find-links /wheels /wheels/ims_cache_proxy-*.whl

FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="ims-cache-proxy" \
      org.opencontainers.image.description="A caching gateway for Huawei Cloud IMS and OpenStack Glance" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/ims-proxy /opt/ims-proxy
COPY deploy/probe.py /opt/ims-proxy/bin/ims-proxy-probe
ENV PATH=/opt/ims-proxy/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    IMS_PROXY_SERVER__LISTEN=0.0.0.0:8080
# By number, for Kubernetes proves runAsNonRoot from nothing else. It owns no file here, so the root may be read-only.
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["ims-proxy-probe", "/healthz"]
ENTRYPOINT ["ims-proxy"]
CMD ["serve"]
