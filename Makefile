# grokd: `make help` lists what there is to do.
#
# Sources are listed by folder; a file that is not listed is not built. Everything lands in $(BUILD).

BUILD   ?= build
VERSION := 0.1.0

# ---- what there is, folder by folder ----

base_SRC   := base/alloc.c base/arena.c base/buf.c base/cgroup.c base/error.c base/human.c base/number.c base/utf8.c
engine_SRC := engine/attn.c engine/bind.c engine/cpus.c engine/draft.c engine/engine.c engine/homes.c engine/info.c engine/kv.c engine/manifest.c \
              engine/memory.c engine/moe.c engine/pool.c engine/prefix.c engine/prefix-file.c engine/sample.c engine/scratch.c engine/seq.c engine/step.c engine/tasks.c \
              engine/file/file.c engine/file/gguf.c engine/file/map.c engine/grammar/expr.c engine/grammar/gbnf.c \
              engine/grammar/grammar.c engine/grammar/automaton.c engine/grammar/automaton-cache.c engine/grammar/automaton-mask.c \
              engine/grammar/match.c engine/grammar/network.c engine/grammar/regex.c engine/grammar/tokens.c \
              engine/grammar/schema.c engine/grammar/schema-disjoint.c engine/grammar/schema-merge.c \
              engine/grammar/schema-number.c engine/grammar/schema-string.c \
              engine/text/chat.c engine/text/jinja-calls.c engine/text/jinja-lex.c engine/text/jinja-parse.c \
              engine/text/jinja-run.c engine/text/jinja-value.c engine/text/merge.c engine/text/spm.c \
              engine/text/spm-gguf.c engine/text/spm-proto.c engine/text/stream.c engine/text/vocab.c
kern_SRC   := engine/kern/amx.c engine/kern/avx2.c engine/kern/avx512.c engine/kern/avxvnni.c engine/kern/gemm.c \
              engine/kern/generic.c engine/kern/kern.c engine/kern/vnni.c
proto_SRC  := proto/msg.c proto/retry.c proto/sniff.c proto/status.c proto/ttrpc.c proto/ttrpc-frame.c
proto_DEF  := proto/grokd.proto proto/ttrpc.proto
client_SRC := client/answers.c client/call.c client/client.c client/error.c client/rpc.c
ctl_SRC    := client/chat.c client/chat-input.c client/cmd-chat.c client/cmd-embed.c client/cmd-generate.c client/cmd-models.c \
              client/cmd-status.c client/cmd-text.c client/cmd-top.c client/ctl.c client/grokctl.c \
              client/progress.c client/sampling.c client/top-screen.c
daemon_SRC := daemon/access.c daemon/call.c daemon/chat.c daemon/config.c daemon/conn.c daemon/constraints.c daemon/cost.c daemon/daemon.c daemon/drafts.c daemon/job.c \
              daemon/listener.c daemon/log.c daemon/mailbox.c daemon/main.c daemon/models.c daemon/notify.c \
              daemon/output.c daemon/quota.c daemon/room.c daemon/sched.c daemon/service.c daemon/service-admin.c \
              daemon/service-embed.c daemon/service-generate.c \
              daemon/service-inference.c daemon/service-models.c daemon/state.c daemon/text.c daemon/worker.c

# One binary each: $(BUILD)/tests/NAME from tests/NAME.c, tests/util and the folders it needs.
unit_base_TESTS   := unit/base-arena unit/base-buf unit/base-cgroup unit/base-human unit/base-number unit/base-utf8
unit_engine_TESTS := kern/check kern/tiles unit/engine-file unit/engine-file-hostile unit/engine-hostile unit/engine-golden \
                     unit/engine-chat unit/engine-constraint unit/engine-draft unit/engine-embed unit/engine-exact unit/engine-info unit/engine-keys unit/engine-math unit/engine-memory unit/engine-pool \
                     unit/engine-text unit/engine-stream unit/engine-sample unit/engine-prefix unit/engine-prefix-file unit/engine-steady unit/engine-suspend
unit_proto_TESTS  := unit/proto-msg unit/proto-retry unit/proto-ttrpc unit/proto-wire
unit_client_TESTS := unit/client-client
unit_daemon_TESTS := unit/daemon-access unit/daemon-config unit/daemon-constraints unit/daemon-drafts unit/daemon-listener unit/daemon-mailbox unit/daemon-quota unit/daemon-sched
e2e_TESTS         := e2e/accounts e2e/chat e2e/constraint e2e/embed e2e/lifecycle e2e/load e2e/models e2e/prefix e2e/rpc e2e/sched e2e/speculation e2e/streams
# Programs for measuring, used by tests: the engine's side only.
tool_TESTS        := grammar logits tokens bench/math bench/masks
# One libFuzzer program each, see tests/fuzz/fuzz.h.
fuzz_TESTS        := fuzz/chat fuzz/constraint fuzz/gguf fuzz/spm fuzz/ttrpc
# Scripts, run in place with GROKD_BUILD set: with every build, and once.
script_TESTS      := unit/client-library.sh unit/engine-grammar.sh cli/chat.sh cli/grokctl.sh interop/go.sh interop/python.sh
once_TESTS        := build.sh cli/bench.sh demo.sh readme.sh systemd/units.sh systemd/seccomp.sh

# ---- how it is compiled ----

PREFIX      ?= /usr/local
SYSCONFDIR  ?= /etc
SHAREDIR    := $(PREFIX)/share/grokd

CC       ?= cc
CFLAGS   ?= $(if $(SANITIZE),-O1 -g1,-O2 -g)
WARNINGS := -Wall -Wextra -Werror -Wshadow -Wundef -Wvla -Wmissing-prototypes -Wstrict-prototypes \
            -Wformat=2 -Wno-unknown-warning-option -Wno-format-truncation -Wpointer-arith -Wwrite-strings
HARDEN   := -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE
pkg_cflags = $(shell pkg-config --cflags $1 2>/dev/null)
pkg_libs   = $(shell pkg-config --libs $1 2>/dev/null)

CPPFLAGS += -I. -I$(BUILD) -D_GNU_SOURCE -DGROKD_VERSION='"$(VERSION)"' \
            $(call pkg_cflags,openblas libprotobuf-c libuv libsystemd jansson libxxhash libedit)
STRICT   := -std=gnu17 -fno-common -fvisibility=hidden -fno-math-errno -ffp-contract=off \
            $(WARNINGS) $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all,$(HARDEN))
LDFLAGS  += -Wl,-z,relro,-z,now $(if $(SANITIZE),-fsanitize=$(SANITIZE))
LDLIBS   += -lpthread -lm

engine_LIBS := $(call pkg_libs,openblas jansson libxxhash)
proto_LIBS  := $(call pkg_libs,libprotobuf-c)
ctl_LIBS    := $(call pkg_libs,jansson libedit ncursesw) $(proto_LIBS)
daemon_LIBS := $(call pkg_libs,libuv libsystemd) $(engine_LIBS) $(proto_LIBS)

# Where an installed grokd finds its configuration and the demo model.
$(BUILD)/daemon/%.o: CPPFLAGS += -DGROKD_CONFIG_FILE='"$(SYSCONFDIR)/grokd/grokd.conf"' \
                                 -DGROKD_SHARE_DIR='"$(SHAREDIR)"'

# Instruction sets are chosen at run time; each of these files holds one, and exports its table only.
# Sanitizers see the generic one: compilers take many minutes over the others when instrumented, and
# tests/kern sets guard pages.
KERN   := $(if $(SANITIZE),-O1,-O3)
AVX2   := -O3 -fno-sanitize=all -mavx2 -mfma -mf16c
AVX512 := $(AVX2) -mavx512f -mavx512bw -mavx512vl -mavx512dq
$(BUILD)/engine/kern/%.o: ISA := $(KERN)
$(BUILD)/engine/kern/avx2.o: ISA := $(AVX2)
$(BUILD)/engine/kern/avxvnni.o: ISA := $(AVX2) -mavxvnni
$(BUILD)/engine/kern/avx512.o: ISA := $(AVX512)
$(BUILD)/engine/kern/vnni.o $(BUILD)/tests/kern/amx-emulated.o: ISA := $(AVX512) -mavx512vnni
$(BUILD)/engine/kern/amx.o: ISA := $(AVX512) -mavx512vnni -mamx-tile -mamx-int8

# Hostile bytes live here: no silent narrowing.
$(BUILD)/engine/file/%.o $(BUILD)/engine/text/%.o $(BUILD)/engine/grammar/%.o: STRICT += -Wconversion -Wsign-conversion
$(proto_SRC:%.c=$(BUILD)/%.o) $(proto_SRC:%.c=$(BUILD)/pic/%.o): STRICT += -Wconversion -Wsign-conversion

# ---- rules ----

Q   := $(if $(V),,@)
MAKEFLAGS += --no-print-directory
comma := ,
jobs = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))
say  = $(if $(V),,@printf '  %-5s %s\n' '$1' '$2')
obj  = $(patsubst %.c,$(BUILD)/%.o,$1)
pic  = $(patsubst %.c,$(BUILD)/pic/%.o,$1)
compile = $(Q)mkdir -p $(@D) && $(CC) $(STRICT) $(CFLAGS) $(ISA) $(CPPFLAGS) -MMD -MP -c -o $@ $<
link    = $(Q)mkdir -p $(@D) && $(CC) $(STRICT) $(CFLAGS) $(LDFLAGS) -pie -o $@ $(filter %.o,$^)

GEN_C := $(patsubst %.proto,$(BUILD)/%.pb-c.c,$(proto_DEF))
GEN_H := $(GEN_C:.c=.h)
GEN_O := $(GEN_C:.c=.o)

base_OBJ   := $(call obj,$(base_SRC))
engine_OBJ := $(call obj,$(engine_SRC) $(kern_SRC)) $(base_OBJ)
proto_OBJ  := $(call obj,$(proto_SRC)) $(GEN_O) $(base_OBJ)
client_OBJ := $(call obj,$(client_SRC)) $(proto_OBJ)
daemon_OBJ := $(call obj,$(filter-out daemon/main.c,$(daemon_SRC))) \
              $(sort $(engine_OBJ) $(proto_OBJ))
lib_OBJ    := $(call pic,$(client_SRC) $(proto_SRC) $(base_SRC)) $(GEN_O:$(BUILD)/%=$(BUILD)/pic/%)

LIB      := libgrokd.so.0
PROGRAMS := $(if $(daemon_SRC),$(BUILD)/grokd) $(if $(ctl_SRC),$(BUILD)/grokctl) \
            $(if $(client_SRC),$(BUILD)/libgrokd.so $(BUILD)/libgrokd.a)

all: $(PROGRAMS) $(engine_OBJ) $(proto_OBJ)

# Packages are looked for once, before anything is compiled; changed flags rebuild everything.
$(BUILD)/.deps: tests/deps
	$(Q)tests/deps check build && mkdir -p $(@D) && touch $@

FLAGS := $(subst ','\'',$(CC) $(STRICT) $(CFLAGS) $(CPPFLAGS) $(LDFLAGS))
PATHS := $(PREFIX) $(SYSCONFDIR)
$(BUILD)/.flags: NOW = $(FLAGS)
$(BUILD)/.paths: NOW = $(PATHS)
$(BUILD)/.flags $(BUILD)/.paths: .FORCE
	$(Q)mkdir -p $(@D); printf '%s\n' '$(NOW)' | cmp -s - $@ || printf '%s\n' '$(NOW)' >$@
$(call obj,$(daemon_SRC)): $(BUILD)/.paths

$(BUILD)/%.o: %.c $(BUILD)/.flags | $(BUILD)/.deps $(GEN_H)
	$(call say,CC,$<)
	$(compile)

$(BUILD)/pic/%.o: %.c $(BUILD)/.flags | $(BUILD)/.deps $(GEN_H)
	$(call say,CC,$< (shared))
	$(compile) -fPIC

$(BUILD)/%.pb-c.c $(BUILD)/%.pb-c.h: %.proto | $(BUILD)/.deps
	$(call say,GEN,$<)
	$(Q)mkdir -p $(@D) && protoc-c --c_out=$(BUILD) $<

$(BUILD)/%.pb-c.o: $(BUILD)/%.pb-c.c $(BUILD)/.flags
	$(call say,CC,$<)
	$(compile)

$(BUILD)/pic/%.pb-c.o: $(BUILD)/%.pb-c.c $(BUILD)/.flags
	$(call say,CC,$< (shared))
	$(compile) -fPIC

$(BUILD)/grokd: $(BUILD)/daemon/main.o $(daemon_OBJ)
	$(call say,LINK,$@)
	$(link) $(daemon_LIBS) $(LDLIBS)

$(BUILD)/grokctl: $(call obj,$(ctl_SRC)) $(client_OBJ)
	$(call say,LINK,$@)
	$(link) $(ctl_LIBS) $(LDLIBS)

$(BUILD)/$(LIB): $(lib_OBJ) client/libgrokd.sym
	$(call say,LINK,$@)
	$(Q)$(CC) $(STRICT) $(CFLAGS) $(LDFLAGS) -shared -Wl,-soname,$(LIB),--version-script=client/libgrokd.sym \
	    $(if $(SANITIZE),,-Wl$(comma)--no-undefined) -o $@ $(lib_OBJ) $(proto_LIBS) $(LDLIBS)

$(BUILD)/libgrokd.so: $(BUILD)/$(LIB)
	$(Q)ln -sf $(LIB) $@

$(BUILD)/libgrokd.a: $(client_OBJ)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

# ---- tests ----

under = $(addprefix $(BUILD)/tests/,$1)
C_TESTS := $(unit_base_TESTS) $(unit_engine_TESTS) $(unit_proto_TESTS) $(unit_client_TESTS) \
           $(unit_daemon_TESTS) $(e2e_TESTS)
util_OBJ := $(call obj,tests/util/test.c tests/util/temp.c tests/util/memlock.c tests/util/proc.c \
                  tests/util/gguf-write.c)

e2e_UTIL := tests/e2e/util-daemon.c tests/e2e/util-ends.c tests/e2e/util-load.c

tests-build: $(call under,$(C_TESTS) $(tool_TESTS)) $(BUILD)/bench $(BUILD)/make-model $(BUILD)/service

$(call under,$(C_TESTS)): $(BUILD)/tests/%: $(BUILD)/tests/%.o $(util_OBJ)
$(call under,$(tool_TESTS)): $(BUILD)/tests/%: $(BUILD)/tests/%.o
$(call under,$(unit_base_TESTS)): $(base_OBJ)
$(call under,$(unit_engine_TESTS) $(tool_TESTS)): $(engine_OBJ)
$(call under,$(unit_engine_TESTS)): $(BUILD)/tests/util/tiny-model.o $(BUILD)/tests/util/spm-write.o \
                                  $(BUILD)/tests/util/team.o
$(call under,kern/check): $(BUILD)/tests/kern/amx-emulated.o
$(call under,kern/check kern/tiles): $(BUILD)/tests/util/tiles.o
$(call under,$(unit_proto_TESTS)): $(proto_OBJ)
$(call under,$(unit_client_TESTS)): $(client_OBJ)
$(call under,$(unit_daemon_TESTS)): $(daemon_OBJ)
$(call under,$(e2e_TESTS)): $(call obj,$(e2e_UTIL)) $(base_OBJ) $(BUILD)/libgrokd.so

$(call under,$(unit_engine_TESTS) $(tool_TESTS)): test_LIBS := $(engine_LIBS)
$(call under,$(unit_proto_TESTS) $(unit_client_TESTS)): test_LIBS := $(proto_LIBS)
$(call under,$(unit_daemon_TESTS)): test_LIBS := $(daemon_LIBS)
# With the shared library as users have it, found beside the test.
$(call under,$(e2e_TESTS)): test_LIBS := -L$(BUILD) -lgrokd -Wl,-rpath,'$$ORIGIN/../..'

$(call under,$(C_TESTS) $(tool_TESTS)):
	$(call say,LINK,$@)
	$(link) $(test_LIBS) $(LDLIBS)

# Measuring: bench a model file, and make one of random weights at real shapes.
$(BUILD)/bench: $(call obj,tests/bench/bench.c tests/bench/roof.c tests/util/proc.c) $(engine_OBJ)
$(BUILD)/make-model: $(call obj,tests/bench/make-model.c tests/util/gguf-write.c) $(engine_OBJ)
$(BUILD)/bench $(BUILD)/make-model:
	$(call say,LINK,$@)
	$(link) $(engine_LIBS) $(LDLIBS)

# What users are promised, measured with many clients at once.
service_OBJ := $(call obj,tests/bench/service.c tests/bench/service-end.c tests/bench/service-load.c)
$(BUILD)/service: $(service_OBJ) $(call obj,$(e2e_UTIL)) $(util_OBJ) $(base_OBJ) $(BUILD)/libgrokd.so
	$(call say,LINK,$@)
	$(link) -L$(BUILD) -lgrokd -Wl,-rpath,'$$ORIGIN' $(LDLIBS)

bench: $(BUILD)/bench $(BUILD)/make-model
	@GROKD_BUILD=$(BUILD) tests/bench/run

bench-service: $(BUILD)/grokd $(BUILD)/service
	@GROKD_BUILD=$(BUILD) $(BUILD)/service

# The same tree again with ASan and UBSan, under $(BUILD)/asan.
asan_MAKE  = $(MAKE) $(jobs) BUILD=$(BUILD)/asan SANITIZE=address,undefined
asan_RUN  := --slowness 6 --build $(BUILD)/asan $(C_TESTS) $(script_TESTS)

check:
	@tests/deps install build check
	@tests/deps install go || echo "grokd: no Go; its tests will be skipped"
	@$(MAKE) $(jobs) all tests-build
	@$(asan_MAKE) all tests-build
	@tests/run --build $(BUILD) $(C_TESTS) $(script_TESTS) $(once_TESTS) $(asan_RUN)

test: all tests-build
	@tests/run --build $(BUILD) $(C_TESTS) $(script_TESTS) $(once_TESTS)

demo:
	@tests/deps install build
	@$(MAKE) $(jobs) all
	@GROKD_BUILD=$(BUILD) engine/demo/run.sh

asan:
	@tests/deps install build check
	@$(asan_MAKE) all tests-build
	@tests/run $(asan_RUN)

# ---- fuzzing ----

FUZZ_SECONDS ?= 60
fuzz_MAKE    := $(MAKE) BUILD=$(BUILD)/fuzz CC=clang SANITIZE=address,undefined,fuzzer-no-link
fuzz_UTIL    := $(call obj,tests/fuzz/fuzz.c tests/util/gguf-write.c tests/util/spm-write.c)

$(call under,$(fuzz_TESTS)): $(BUILD)/tests/%: $(BUILD)/tests/%.o $(fuzz_UTIL) $(engine_OBJ) $(proto_OBJ)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(LDFLAGS) -fsanitize=fuzzer -pie -o $@ \
	    $(sort $(filter %.o,$^)) $(engine_LIBS) $(proto_LIBS) $(LDLIBS)

fuzz-build: $(call under,$(fuzz_TESTS))

fuzz:
	@tests/deps install build fuzz
	@$(fuzz_MAKE) fuzz-build
	@for t in $(fuzz_TESTS); do mkdir -p $(BUILD)/fuzz/corpus/$$t && $(BUILD)/fuzz/tests/$$t \
	    -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=$(BUILD)/ $(BUILD)/fuzz/corpus/$$t || exit 1; done

# ---- lint ----

LINT := lint/layers.sh lint/headers.sh lint/format.sh lint/manual.sh lint/tidy.sh

lint:
	@tests/deps install build lint
	@$(MAKE) $(jobs) all tests-build
	@tests/run --slowness 3 --build $(BUILD) $(LINT) # reading all sources takes as long as a build

generated: $(GEN_H)

flags: # for scripts that compile
	@echo $(STRICT) $(CPPFLAGS)

format:
	tests/lint/files.sh '*.c' '*.h' | xargs clang-format -i

# ---- installation ----

INSTALL := install -D -m
UNITS   := $(PREFIX)/lib/systemd/system
MAN     := man/grokd.8 man/grokd.conf.5 man/grokctl.1 man/libgrokd.3
edit     = sed -e 's|/usr/bin/|$(PREFIX)/bin/|' -e 's|@PREFIX@|$(PREFIX)|' \
               -e 's|@VERSION@|$(VERSION)|' $1 | $(INSTALL) 644 /dev/stdin $(DESTDIR)$2

install: all
	$(INSTALL) 755 $(BUILD)/grokd $(BUILD)/grokctl -t $(DESTDIR)$(PREFIX)/bin
	$(INSTALL) 644 $(BUILD)/$(LIB) $(BUILD)/libgrokd.a -t $(DESTDIR)$(PREFIX)/lib
	ln -sf $(LIB) $(DESTDIR)$(PREFIX)/lib/libgrokd.so
	$(INSTALL) 644 client/grokd.h -t $(DESTDIR)$(PREFIX)/include
	$(call edit,client/libgrokd.pc.in,$(PREFIX)/lib/pkgconfig/libgrokd.pc)
	$(INSTALL) 644 proto/grokd.proto proto/ttrpc.proto engine/demo/model-q8_0.gguf -t $(DESTDIR)$(SHAREDIR)
	$(foreach m,$(MAN),$(INSTALL) 644 $m -t $(DESTDIR)$(PREFIX)/share/man/man$(subst .,,$(suffix $m)) &&) :
	$(INSTALL) 644 client/completion/grokctl.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/grokctl
	ln -sf grokctl $(DESTDIR)$(PREFIX)/share/bash-completion/completions/grokd
	$(INSTALL) 644 client/completion/_grokctl -t $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	$(call edit,systemd/grokd.service,$(UNITS)/grokd.service)
	$(INSTALL) 644 systemd/grokd.socket -t $(DESTDIR)$(UNITS)
	$(INSTALL) 644 systemd/grokd.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/grokd.conf
	$(INSTALL) 644 systemd/grokd.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/grokd.conf
	test -e $(DESTDIR)$(SYSCONFDIR)/grokd/grokd.conf || \
	    $(INSTALL) 644 systemd/grokd.conf -t $(DESTDIR)$(SYSCONFDIR)/grokd
	$(if $(DESTDIR),,-ldconfig)

# What install would put there.
uninstall: all
	tree=$$(mktemp -d) && $(MAKE) -s DESTDIR=$$tree install && \
	    (cd $$tree && find . ! -type d ! -path '.$(SYSCONFDIR)/*') | (cd $(DESTDIR)/ && xargs rm -f) && \
	    rm -rf $$tree && rmdir $(DESTDIR)$(SHAREDIR)

# ---- chores ----

help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

## make             build grokd, grokctl and libgrokd under build/ (V=1 shows the commands)
## make demo        install what is missing, build, and have the demo model answer a few questions
## make check       install the test dependencies and run every test, also under ASan and UBSan
## make test        the tests of the normal build alone
## make asan        the tests under ASan and UBSan alone
## make fuzz        each parser under libFuzzer for FUZZ_SECONDS (60), needs clang
## make bench       speeds of random-weight models at real shapes, and their share of the machine's limits
## make bench-service  what users are promised (200 streams, fair shares, endings, …), measured on the demo model
## make lint        layers, headers, formatting, clang-tidy, shellcheck, manual pages
## make format      clang-format every source file
## make install     to PREFIX (/usr/local) and SYSCONFDIR (/etc), below DESTDIR
## make uninstall   take the same files away again, but for the configuration
## make clean       remove build/

clean:
	rm -rf $(BUILD)

.FORCE:
.PHONY: all tests-build bench bench-service check test demo asan fuzz fuzz-build lint generated flags format install \
        uninstall help clean .FORCE
.SECONDARY:
.DELETE_ON_ERROR:
-include $(shell find $(BUILD) -path $(BUILD)/asan -prune -o -path $(BUILD)/fuzz -prune -o -name '*.d' -print 2>/dev/null)
