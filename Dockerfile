# Two images from one file, both non-root and without a shell entry point:
#   docker build --target cpu  -t lorica:0.1.0 .
#   docker build --target cuda -t lorica:0.1.0-cuda .
# The CUDA target takes libonnxruntime and its providers from the PyPI wheel onnxruntime-gpu of the same version as the npm package
# onnxruntime-node, as one explicit step, and the product loads that library by path (LORICA_ORT_LIBRARY); builds are never mixed.
ARG NODE_IMAGE=node:20-bookworm-slim
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04

FROM ${NODE_IMAGE} AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY tsconfig.json tsconfig.build.json ./
COPY proto ./proto
COPY src ./src
COPY scripts ./scripts
RUN npm run build && npm prune --omit=dev

FROM ${NODE_IMAGE} AS cpu
ENV NODE_ENV=production
RUN groupadd --gid 10001 lorica && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin lorica \
    && mkdir -p /var/lib/lorica && chown lorica:lorica /var/lib/lorica
WORKDIR /app
COPY --from=build /app/package.json ./
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
COPY proto ./proto
COPY models ./models
COPY LICENSE ./
COPY data/NOTICE ./data/NOTICE
ENV LORICA_DATA_DIR=/var/lib/lorica LORICA_MODEL_CACHE=/var/lib/lorica/models
USER 10001:10001
EXPOSE 50051 9464
VOLUME /var/lib/lorica
ENTRYPOINT ["node", "/app/dist/src/cli/lorica.js"]
CMD ["serve"]

# onnxruntime-gpu's wheel is a zip archive; only its native libraries are kept.
FROM ${NODE_IMAGE} AS cuda-library
ARG ORT_VERSION=1.30.0
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip && rm -rf /var/lib/apt/lists/*
RUN pip download --no-deps --only-binary :all: --python-version 312 --platform manylinux_2_27_x86_64 --platform manylinux_2_28_x86_64 \
      --dest /tmp/wheel "onnxruntime-gpu==${ORT_VERSION}" \
    && mkdir -p /opt/onnxruntime \
    && python3 -m zipfile -e /tmp/wheel/*.whl /tmp/unpacked \
    && cp /tmp/unpacked/onnxruntime/capi/libonnxruntime*.so* /opt/onnxruntime/

FROM ${CUDA_IMAGE} AS cuda
ENV NODE_ENV=production
COPY --from=build /usr/local/bin/node /usr/local/bin/node
RUN groupadd --gid 10001 lorica && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin lorica \
    && mkdir -p /var/lib/lorica && chown lorica:lorica /var/lib/lorica
WORKDIR /app
COPY --from=build /app/package.json ./
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
COPY --from=cuda-library /opt/onnxruntime /opt/onnxruntime
COPY proto ./proto
COPY models ./models
COPY LICENSE ./
COPY data/NOTICE ./data/NOTICE
ENV LORICA_DATA_DIR=/var/lib/lorica LORICA_MODEL_CACHE=/var/lib/lorica/models \
    LORICA_ORT_LIBRARY=/opt/onnxruntime/libonnxruntime.so.1.30.0 LORICA_DEVICE=cuda:0
USER 10001:10001
EXPOSE 50051 9464
VOLUME /var/lib/lorica
ENTRYPOINT ["node", "/app/dist/src/cli/lorica.js"]
CMD ["serve"]
