# The service on a CPU: lean, without PyTorch, not root, fit for a read-only file system.
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml hatch_build.py README.md LICENSE constraints-cpu.txt ./
COPY segrefine segrefine
RUN python -m venv /opt/segrefine && /opt/segrefine/bin/pip install --no-cache-dir -c constraints-cpu.txt ".[cpu,serve]"

FROM python:3.12-slim
COPY --from=build /opt/segrefine /opt/segrefine
ENV PATH=/opt/segrefine/bin:$PATH PYTHONDONTWRITEBYTECODE=1 SEGREFINE_SERVE_HOST=0.0.0.0 SEGREFINE_SERVE_PORT=8000
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Another port is set by SEGREFINE_SERVE_PORT, which the health check reads; it does not see --port.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['SEGREFINE_SERVE_PORT'] + '/v2/health/ready', timeout=2)"]
ENTRYPOINT ["segrefine", "serve"]
CMD ["photo", "photo-gs"]
