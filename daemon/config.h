/* The configuration: a file in systemd's style, its drop-ins, and what the command line adds. */
#pragma once

#include "base/error.h"
#include "daemon/quota.h"

#include <stdbool.h>
#include <stdio.h>

#define CONFIG_MODELS_MAX   64
#define CONFIG_ACCOUNTS_MAX 256
/* Of a limit that a section [user NAME] or [group NAME] does not have. */
#define CONFIG_UNSET (UINT64_MAX - 1)
/* A time without an end. */
#define CONFIG_FOREVER UINT64_MAX

struct config_model {
    char *name, *path;
    char *chat_template;       /* a name or a file; "": the model's own */
    uint64_t load, is_default; /* booleans, as every number here is 64 bits wide */
    uint64_t kv_bytes;         /* 0: [engine] kv_memory */
    uint64_t n_context_max;    /* 0: [engine] context_max */
    uint64_t keep_us;          /* 0: [engine] keep_alive */
    uint64_t pin;
};

/* Limits of a user or a group, by their keys in [limits]. */
struct config_account {
    char *name;
    bool is_group;
    uint64_t limits[_QUOTA_N]; /* CONFIG_UNSET: none here */
};

/* What may be allowed and denied, by the keys WORD_allow and WORD_deny. */
#define CONFIG_SERVICE_MAP(X)                                                                      \
    X(INFERENCE, inference)                                                                        \
    X(MODELS, models)                                                                              \
    X(ADMIN, admin)

enum config_service {
#define X(name, word) CONFIG_##name,
    CONFIG_SERVICE_MAP(X)
#undef X
        _CONFIG_SERVICES
};

/* Names as they are written; access.h looks them up. */
struct config_access {
    char *allow, *deny;
};

/* Owner: main. Read-only after loading. The table in config.c describes each key. */
typedef struct Config {
    char *socket, *socket_group, *isa, *prefix_state;
    uint64_t socket_mode, log_level, drain_us, write_us;
    uint64_t n_threads, kv_bytes, kv_type, exact_floats, preload, lock, hugepages, prefix_cache,
        prefix_shared, prefix_state_bytes_max, speculation, n_context_max, n_sequences_max,
        n_step_rows, target_us, keep_us, model_bytes_max;
    uint64_t n_tokens_default, timeout_default_us, timeout_max_us, priority_default;
    uint64_t n_connections_max, n_requests_max, n_output_bytes_max, n_queued_max, window_us;
    uint64_t limits[_QUOTA_N]; /* of a user */
    struct config_access access[_CONFIG_SERVICES];
    struct config_account accounts[CONFIG_ACCOUNTS_MAX];
    size_t n_accounts;
    struct config_model models[CONFIG_MODELS_MAX];
    size_t n_models;
} Config;

/* All keys at their defaults. */
int config_init(Config *c);
void config_deinit(Config *c);
/* Reads the file, then the drop-ins (what ends in .conf in the directory PATH.d) in the order of
 * their names, later values winning. A file that is not there is an error only where `is_required`.
 * Every mistake is logged with file and line; returns -EINVAL where there was one. */
int config_load(Config *c, const char *path, bool is_required);
/* One --model NAME=PATH. Returns -EINVAL (reterr says why), -ENOMEM. */
int config_add_model(Config *c, const char *text, Error *reterr);
/* What only makes sense together. Mistakes are logged; returns -EINVAL where there was one. */
int config_check(const Config *c);
/* Every key with its default and what it means. */
void config_print_keys(FILE *to);
/* Letters, digits and ._:- only, at most 64. */
bool config_is_model_name(const char *name);
