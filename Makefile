# Peapod's tasks. `make help` lists them. Everything is built from a clean clone on Debian 12 with Go, gcc and make.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo v0.1.0-dev)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null)
PKG     := github.com/peapod/peapod
# What kubectl and client-go say that they are: `kubectl version` fails on the placeholder that they come with.
KUBE    := $(shell sed -n 's|.*k8s.io/client-go v0\.|v1.|p' go.mod)
LDFLAGS := -s -w -X $(PKG)/internal/version.Peapod=$(VERSION) -X $(PKG)/internal/version.Commit=$(COMMIT) \
	-X k8s.io/component-base/version.gitVersion=$(KUBE)+peapod -X k8s.io/client-go/pkg/version.gitVersion=$(KUBE)+peapod
PEAPOD  := bin/peapod

# Peapod itself needs no C; one setting for build and tests, so that they share what is compiled.
export CGO_ENABLED := 0

# What the build and the tests take from Debian.
BUILD_PACKAGES := gcc libc6-dev libseccomp-dev pkg-config ca-certificates
TEST_PACKAGES  := docker-registry busybox-static iproute2

# What peapod carries inside.
PODINIT := runtime/supervisor/artifacts/podinit
PODINIT_TAGS := seccomp netgo osusergo runc_nocriu
HELLO   := runtime/image/builtin/artifacts/hello.tar

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Build, start a cluster of one node in the background, run a Pod on it and say how to go on
	@./examples/run.sh $(PEAPOD)

.PHONY: stop
stop: ## Stop that cluster and its Pods (its data stays; bin/peapod uninstall removes everything)
	@$(PEAPOD) kill --yes

.PHONY: build
build: build-packages $(PODINIT) $(HELLO) ## Make bin/peapod
	$(GO) build -ldflags '$(LDFLAGS)' -o $(PEAPOD) ./cmd/peapod

# The helper that becomes containers: static, with seccomp, so that it needs nothing of the machine it runs on.
.PHONY: $(PODINIT)
$(PODINIT): build-packages
	CGO_ENABLED=1 $(GO) build -tags '$(PODINIT_TAGS)' -ldflags '-s -w -linkmode external -extldflags -static' -o $@ ./cmd/podinit

# The image that works without a registry.
.PHONY: $(HELLO)
$(HELLO):
	$(GO) run ./test/images -out $(dir $@) peapod.local/hello:latest

.PHONY: build-packages test-packages
build-packages:
	@./.ci/packages $(BUILD_PACKAGES)
test-packages:
	@./.ci/packages $(BUILD_PACKAGES) $(TEST_PACKAGES)

.PHONY: test
test: test-packages build ## Run every test, the end-to-end ones with real containers included (as root, 20 minutes at most)
	CGO_ENABLED=1 $(GO) test -tags '$(PODINIT_TAGS)' ./cmd/podinit
	KUBE_CACHE_MUTATION_DETECTOR=true $(GO) test -timeout 20m ./...

.PHONY: race
race: test-packages build ## Run the tests that need no cluster under the race detector
	CGO_ENABLED=1 $(GO) test -race -timeout 30m $$($(GO) list ./... | grep -v -e /test/ -e /cmd/)

.PHONY: lint
lint: ## Check format, vet and staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

.PHONY: bench
bench: test-packages build ## Measure start, Pods, the API, workloads, Services, DNS, scheduling and idle cost against the budgets
	$(GO) run ./bench -peapod $(PEAPOD)

.PHONY: generate
generate: ## Regenerate the OpenAPI definitions
	$(GO) generate ./...

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin .build $(PODINIT) $(HELLO)
