# Two images:
#
#   docker build --target evermore -t evermore .
#       the binary alone, for  COPY --from=evermore /evermore /evermore
#   docker build --target node --build-arg NODE_IMAGE=node:22-slim -t evermore-node .
#       a base for apps:  FROM evermore-node ; COPY . . ; CMD ["node", "server.js"]
#
# The same source, Go, VERSION and REVISION give the same binary, byte for byte,
# wherever it is built, also by `make build`, and the same layer of the image.
# For another platform: docker build --platform linux/arm64.

ARG GO_IMAGE=golang:1.26
ARG NODE_IMAGE=node:22-slim
ARG VERSION=devel
ARG REVISION=unknown

# Go builds for the target on the builder's own platform: nothing is emulated.
FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION
ARG REVISION
# The date of the binary, in seconds since 1970.
ARG SOURCE_DATE_EPOCH=0
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false -tags nethttpomithttp2 \
	-ldflags "-s -w -X evermore/cli.version=$VERSION -X evermore/cli.revision=$REVISION" \
	-o /evermore . && touch -d "@$SOURCE_DATE_EPOCH" /evermore

FROM scratch AS evermore
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="evermore" \
	org.opencontainers.image.description="keeps a Node.js app alive: PID 1 that reaps, forwards signals and restarts" \
	org.opencontainers.image.version="$VERSION" \
	org.opencontainers.image.revision="$REVISION"
COPY --from=build /evermore /evermore
USER 65532:65532
ENTRYPOINT ["/evermore"]

FROM ${NODE_IMAGE} AS node
ARG NODE_IMAGE
ARG VERSION
ARG REVISION
# An image for an app states its own over these.
LABEL org.opencontainers.image.title="evermore-node" \
	org.opencontainers.image.description="Node.js under evermore, a base for apps" \
	org.opencontainers.image.version="$VERSION" \
	org.opencontainers.image.revision="$REVISION" \
	org.opencontainers.image.base.name="$NODE_IMAGE"
COPY --from=evermore /evermore /evermore
WORKDIR /app
# The user node of the official images, as numbers: Kubernetes' runAsNonRoot
# cannot tell from a name.
USER 1000:1000
# /metrics, /livez, /readyz and /healthz.
EXPOSE 9797
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/evermore", "health"]
ENTRYPOINT ["/evermore", "--"]
CMD ["node", "server.js"]
