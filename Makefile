# nebula: `make help` lists the targets.
#
#   make            build/nebula and build/nebula.so (the module for a stock lua5.4)
#   make SANITIZE=1 the same under build/asan with AddressSanitizer and UBSan

MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := all

PREFIX   ?= /usr/local
DESTDIR  ?=
SANITIZE ?=
BUILD    := build$(if $(SANITIZE),/asan)

PACKAGES := gcc make pkg-config lua5.4 liblua5.4-dev libuv1-dev libpq-dev postgresql-15 \
  libcurl4-openssl-dev libssl-dev libexpat1-dev libzstd-dev zlib1g-dev libedit-dev lua-cjson-dev \
  libmicrohttpd-dev
TEST_PACKAGES := lua-busted lua-check clang-format radosgw ceph-mon ceph-osd ceph-common

CC       := gcc
LIBS     := lua5.4 libuv libpq libcurl libcrypto expat libzstd zlib
HOSTLIBS := libedit lua5.4-cjson libmicrohttpd
WARN     := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Werror
OPTIMIZE := $(if $(SANITIZE),-O1 -fsanitize=address$(,)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer,-O2)
, := ,

# pkg-config runs once the packages are there: these expand inside recipes only.
PKGFLAGS = $(shell pkg-config --cflags $(LIBS) $(HOSTLIBS) | sed 's/-I/-isystem /g')
CFLAGS   = -std=c17 -D_GNU_SOURCE -g $(OPTIMIZE) $(WARN) -fPIC -fvisibility=hidden -pthread -Ibindings -Ihost $(PKGFLAGS)
LDFLAGS  = $(OPTIMIZE) -pthread

BINDINGS := $(sort $(wildcard bindings/*.c bindings/*/*.c))
HOST     := $(sort $(wildcard host/*.c host/*/*.c))
BINDINGS_O := $(BINDINGS:%.c=$(BUILD)/obj/%.o)
HOST_O     := $(HOST:%.c=$(BUILD)/obj/%.o)

.PHONY: all
all: $(BUILD)/nebula $(BUILD)/nebula.so

$(BUILD)/nebula: $(HOST_O) $(BINDINGS_O)
	$(CC) $(LDFLAGS) -rdynamic -o $@ $^ $(shell pkg-config --libs $(LIBS) $(HOSTLIBS)) -lm -ldl

$(BUILD)/nebula.so: $(BINDINGS_O)
	$(CC) $(LDFLAGS) -shared -o $@ $^ $(shell pkg-config --libs $(filter-out lua5.4,$(LIBS))) -lm

$(BUILD)/obj/%.o: %.c $(BUILD)/.packages Makefile
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

-include $(BINDINGS_O:.o=.d) $(HOST_O:.o=.d)

# What is missing is installed with apt-get where that is possible; else the command is printed.
define install_packages
missing=$$(for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q ' installed$$' || printf '%s ' $$p; done); \
if [ -n "$$missing" ]; then \
  if [ "$$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo='sudo -n'; else \
    echo "Debian packages are missing. As root, run: apt-get install $$missing" >&2; exit 1; fi; \
  echo "installing: $$missing"; \
  $$sudo apt-get update -qq && \
  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing </dev/null >/dev/null; \
fi
endef

$(BUILD)/.packages:
	@mkdir -p $(@D)
	@$(call install_packages,$(PACKAGES))
	@touch $@

$(BUILD)/.test-packages: $(BUILD)/.packages
	@$(call install_packages,$(TEST_PACKAGES))
	@touch $@

.PHONY: clean
clean:
	rm -rf build
