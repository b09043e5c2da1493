# fedkalemia in containers. Two targets on Debian bookworm:
#   app    (default)  fedkalemia-site, fedkalemia-server, fedkalemia-sim; no Ray, no compilers, no test tools
#   front             nginx alone, the only part of a coordinator that hospitals can reach
# Both run as uid 10001 and need no writable path but their volumes and /tmp.
#
#   docker compose build
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu -t fedkalemia:0.1.0 .

# ---- the front end -------------------------------------------------------------------------------------------
FROM debian:bookworm-slim AS front
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl nginx-light \
 && rm -rf /var/lib/apt/lists/* /var/log/nginx /etc/nginx/sites-enabled/default \
 && groupadd --gid 10001 fedkalemia \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin fedkalemia \
 && install -d -o 10001 -g 10001 -m 0750 /coordinator /coordinator/front
USER 10001:10001
WORKDIR /tmp
STOPSIGNAL SIGQUIT
EXPOSE 8443
# Errors go to the container's log even before the configuration is read.
CMD ["nginx", "-e", "stderr", "-p", "/coordinator/front/", "-c", "/coordinator/front/nginx.conf"]

# ---- our own packages, as a wheel, and the list of what they need ---------------------------------------------
FROM python:3.11-slim-bookworm AS wheel
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*project['dependencies'], *project['optional-dependencies']['postgres'], sep='\n')" > /requirements.txt
COPY common common
COPY client client
COPY server server
COPY simulation simulation
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

# ---- the application -----------------------------------------------------------------------------------------
FROM python:3.11-slim-bookworm AS app
# Where pip finds torch. Empty: the default index, whose build brings CUDA libraries along. CPU only, a tenth
# of the size: TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_INDEX=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore PATH=/opt/fedkalemia/bin:$PATH
RUN groupadd --gid 10001 fedkalemia \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin fedkalemia \
 && python -m venv /opt/fedkalemia
WORKDIR /opt/fedkalemia
# The large, rarely changing layers first: torch, then the other dependencies; code comes last.
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--no-deps --index-url "$TORCH_INDEX"} torch
COPY --from=wheel /requirements.txt ./
RUN pip install --no-cache-dir -c constraints.txt -r requirements.txt
COPY --from=wheel /wheel /opt/fedkalemia/wheel
RUN pip install --no-cache-dir --no-deps wheel/*.whl && pip check
COPY deploy/health.py /opt/fedkalemia/bin/fedkalemia-health
COPY deploy/database_secret.py /opt/fedkalemia/bin/fedkalemia-database-secret
# Mount points with the right owner: a fresh named volume takes it over.
RUN chmod 0755 bin/fedkalemia-health bin/fedkalemia-database-secret \
 && install -d -o 10001 -g 10001 -m 0750 /coordinator /coordinator/front /authority /site /site/node /node \
    /data /secrets /exchange /demo /demo/truth /demo/hospitals \
    /demo/hospitals/north /demo/hospitals/harbor /demo/hospitals/valley
# HOME and caches on the tmpfs; the byte code was compiled when the packages were installed.
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
CMD ["fedkalemia-site", "--help"]
