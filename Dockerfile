# Two images:
#
#   docker build --target evermore -t evermore .
#       the binary alone, for  COPY --from=evermore /evermore /evermore
#   docker build --target node --build-arg NODE_IMAGE=node:22-slim -t evermore-node .
#       a base for apps:  FROM evermore-node ; COPY . . ; CMD ["node", "server.js"]

ARG GO_IMAGE=golang:1.26
ARG NODE_IMAGE=node:22-slim

# Go builds for the target on the builder's own platform: nothing is emulated.
FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=devel
ARG REVISION=unknown
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath \
	-ldflags "-s -w -X evermore/cli.version=$VERSION -X evermore/cli.revision=$REVISION" \
	-o /evermore .

FROM scratch AS evermore
COPY --from=build /evermore /evermore
ENTRYPOINT ["/evermore"]

FROM ${NODE_IMAGE} AS node
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
