# The image of web, worker and beat. No server is inside: PostgreSQL and Redis come by address.
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.txt /
RUN python -m venv /venv && /venv/bin/pip install --require-hashes -r /requirements.txt

FROM python:3.11-slim
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PULSE_HOME=/data
RUN useradd --system --uid 10001 --home-dir /data --create-home pulse
COPY --from=build /venv /venv
WORKDIR /app
COPY . .
# Hashed, compressed static files lie in the image. The secrets here sign and encrypt nothing.
RUN DEBUG=0 PULSE_HOME=/tmp/build SECRET_KEY=build ALLOWED_HOSTS=build \
    ENCRYPTION_KEYS=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= \
    python manage.py collectstatic --noinput --verbosity 0 && rm -rf /tmp/build
USER pulse
EXPOSE 8000
CMD ["gunicorn", "pipelinepulse.wsgi", "--bind", "0.0.0.0:8000"]
