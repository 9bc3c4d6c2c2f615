# grokd: make help lists what there is to do.
#
# Sources are listed by folder; a file that is not listed is not built. Everything lands in $(BUILD).

BUILD   ?= build
PREFIX  ?= /usr/local
VERSION := 0.1.0

base_SRC   := base/alloc.c base/buf.c base/error.c
engine_SRC :=
kern_SRC   :=
proto_SRC  :=
client_SRC :=
ctl_SRC    :=
daemon_SRC :=

# One binary each: $(BUILD)/tests/NAME from tests/NAME.c and the folders it needs.
unit_base_TESTS   := unit/base-buf
unit_engine_TESTS :=
unit_proto_TESTS  :=
unit_daemon_TESTS :=
e2e_TESTS         :=

CC       ?= cc
CPPFLAGS += -I. -I$(BUILD) -D_GNU_SOURCE -DGROKD_VERSION='"$(VERSION)"'
WARNINGS := -Wall -Wextra -Werror -Wshadow -Wundef -Wvla -Wmissing-prototypes -Wstrict-prototypes \
            -Wformat=2 -Wpointer-arith -Wwrite-strings
HARDEN   := -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE
CFLAGS   ?= -O2 -g
CFLAGS   += -std=gnu17 -fno-common -fvisibility=hidden -fno-math-errno -ffp-contract=off \
            $(WARNINGS) $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all,$(HARDEN))
LDFLAGS  += -Wl,-z,relro,-z,now -pie $(if $(SANITIZE),-fsanitize=$(SANITIZE))
LDLIBS   += -lpthread -lm

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-5s %s\n' '$1' '$2')

obj = $(patsubst %.c,$(BUILD)/%.o,$1)

TESTS := $(addprefix $(BUILD)/tests/,$(unit_base_TESTS) $(unit_engine_TESTS) $(unit_proto_TESTS) \
           $(unit_daemon_TESTS) $(e2e_TESTS))

all: $(call obj,$(base_SRC))

tests-build: $(TESTS)

$(BUILD)/%.o: %.c
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<

test_LINK = $(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(addprefix $(BUILD)/tests/,$(unit_base_TESTS)): $(BUILD)/tests/%: \
    $(BUILD)/tests/%.o $(BUILD)/tests/util/test.o $(call obj,$(base_SRC))
	$(call say,LINK,$@)
	$(test_LINK)

clean:
	rm -rf $(BUILD)

.PHONY: all tests-build clean
.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
