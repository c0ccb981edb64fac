# What a developer does with evermore. `make help` lists it.

SHELL := /bin/bash
VERSION ?= $(shell git describe --tags --dirty 2>/dev/null || echo devel)
REVISION ?= $(shell git describe --always --dirty --exclude '*' 2>/dev/null || echo unknown)
# What evermore serves and asks is HTTP/1.1: half a megabyte less.
TAGS := nethttpomithttp2
LDFLAGS := -s -w -X evermore/cli.version=$(VERSION) -X evermore/cli.revision=$(REVISION)

# Where `make run` serves metrics and the app.
HTTP ?= 127.0.0.1:9797
PORT ?= 3000

.DEFAULT_GOAL := help
.PHONY: help run build test bench lint e2e clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## run an example under evermore, with metrics
	@printf '%s\n' \
		'Try, in another terminal:' \
		'  curl http://127.0.0.1:$(PORT)/            the app tells its pid' \
		'  kill -9 PID                             it comes back with another one' \
		'  curl -s http://$(HTTP)/metrics | grep evermore_child_restarts_total' \
		'  curl http://$(HTTP)/healthz' \
		'Ctrl-C here stops both.' ''
	@PORT=$(PORT) bin/evermore --http $(HTTP) --min-uptime 1s --spin-sleep-time 1s examples/server/server.js

build: ## build bin/evermore, static and stripped
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o bin/evermore .

test: ## install what tests need, check the form, run all tests
	@scripts/test

bench: build bench/.peers/installed ## measure evermore beside its peers
	go run ./bench -o bench/results.md

# A peer that npm could not bring is named in the table.
bench/.peers/installed: bench/package.json
	@mkdir -p $(@D) && cp $< $(@D)
	@if npm install --prefix $(@D) --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel error; \
	then touch $@; else echo 'bench: npm could not install forever and pm2' >&2; fi

lint: ## check the form of Go and shell sources
	@scripts/lint

e2e: ## run only the black-box tests, containers and a cluster included
	@scripts/setup
	go test -race -count=1 -timeout 20m ./e2e/...
	@e2e/cluster/test.sh -v

clean: ## remove what was built and fetched
	rm -rf bin bench/.peers
