# The whole service: decision API on 8000, admin API and console on 8001, everything kept in /data. How to run it:
# docs/deployment.md.
FROM python:3.11-slim AS build
COPY requirements.lock /source/
COPY clients/python /source/clients/python
RUN python3 -m venv /opt/rewardloop \
 && /opt/rewardloop/bin/pip install --no-cache-dir --disable-pip-version-check -c /source/requirements.lock /source/clients/python
COPY pyproject.toml README.md LICENSE /source/
COPY bandit /source/bandit
COPY serving /source/serving
COPY joiner /source/joiner
COPY evaluation /source/evaluation
COPY simulator /source/simulator
RUN /opt/rewardloop/bin/pip install --no-cache-dir --disable-pip-version-check -c /source/requirements.lock /source

FROM python:3.11-slim
COPY --from=build /opt/rewardloop /opt/rewardloop
RUN useradd --uid 10001 --no-create-home --home-dir /data rewardloop \
 && install --directory --owner rewardloop --group rewardloop /data
ENV PATH=/opt/rewardloop/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    REWARDLOOP_DATA_DIR=/data \
    REWARDLOOP_SERVICE__HOST=0.0.0.0 \
    REWARDLOOP_SERVICE__ADMIN_HOST=0.0.0.0
USER rewardloop
WORKDIR /data
VOLUME /data
EXPOSE 8000 8001
HEALTHCHECK --start-period=60s --interval=10s --timeout=5s \
    CMD ["python3", "-c", "import urllib.request as r; [r.urlopen(f'http://127.0.0.1:{p}/readyz', timeout=4) for p in (8000, 8001)]"]
ENTRYPOINT ["rewardloop"]
CMD ["up"]
