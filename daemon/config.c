/* See config.h. */
#include "daemon/config.h"

#include "base/alloc.h"
#include "base/checked.h"
#include "daemon/chat.h"
#include "daemon/log.h"
#include "daemon/sched.h"
#include "engine/engine.h"

#include <ctype.h>
#include <dirent.h>
#include <inttypes.h>
#include <string.h>

#define LINE_MAX_BYTES  8192
#define MODEL_NAME_MAX  64
#define MODEL_SECTION   "model"
#define LIMITS_SECTION  "limits"
#define NAMES_MAX       4096
#define DROP_IN_END     ".conf"
#define NUMBER_MAX      INT64_MAX
#define SECONDS_MAX     (366ull * 86400)
#define SOCKET_PATH_MAX 106 /* sockaddr_un, where its temporary name has one byte more */

/* A parser reads `text` into the uint64_t or char * at `to`. Returns -EINVAL with a sentence that
 * says what the value must be, -ENOMEM. */
struct key {
    const char *section, *name;
    int (*parse)(const struct key *key, const char *text, void *to, Error *reterr);
    size_t offset;
    const char *value; /* the default, in the words of the file */
    const char *help;
    uint64_t min, max; /* of numbers */
    const char *const *words;
};

/* ---- values ---- */

static int parse_text(const struct key *key, const char *text, void *to, Error *reterr) {
    char *copy;

    if (strlen(text) > key->max)
        return error_set(reterr, -EINVAL, "at most %" PRIu64 " bytes are allowed", key->max);
    copy = alloc_string(text);
    if (!copy)
        return error_set(reterr, -ENOMEM, "out of memory");
    free(*(char **)to);
    *(char **)to = copy;
    return 0;
}

static int put_number(const struct key *key, uint64_t number, void *to, Error *reterr) {
    if (number < key->min || number > key->max)
        return error_set(reterr, -EINVAL, "the value must be from %" PRIu64 " to %" PRIu64,
                         key->min, key->max);
    *(uint64_t *)to = number;
    return 0;
}

/* Digits at the start; the rest is left in *ret_rest. */
static bool read_digits(const char *text, int base, uint64_t *ret, const char **ret_rest) {
    char *end;

    if (!isdigit((unsigned char)text[0]))
        return false;
    errno = 0;
    *ret = strtoull(text, &end, base);
    *ret_rest = end;
    return errno == 0;
}

static int parse_number(const struct key *key, const char *text, void *to, Error *reterr) {
    const char *rest;
    uint64_t number;

    if (!read_digits(text, 10, &number, &rest) || *rest)
        return error_set(reterr, -EINVAL, "a whole number is expected");
    return put_number(key, number, to, reterr);
}

static int parse_mode(const struct key *key, const char *text, void *to, Error *reterr) {
    const char *rest;
    uint64_t mode;

    if (!read_digits(text, 8, &mode, &rest) || *rest)
        return error_set(reterr, -EINVAL, "an octal file mode such as 0660 is expected");
    return put_number(key, mode, to, reterr);
}

static int parse_with_unit(const struct key *key, const char *text, const char *const *units,
                           const uint64_t *factors, void *to, Error *reterr) {
    const char *rest;
    uint64_t number;

    if (!read_digits(text, 10, &number, &rest))
        return error_set(reterr, -EINVAL, "a whole number, maybe with a unit, is expected");
    while (*rest == ' ')
        rest++;
    for (size_t i = 0; units[i]; i++)
        if (strcmp(rest, units[i]) == 0)
            return checked_mul(number, factors[i], &number)
                       ? put_number(key, number, to, reterr)
                       : error_set(reterr, -EINVAL, "the value is too large");
    return error_set(reterr, -EINVAL, "'%.16s' is no unit known here", rest);
}

static int parse_bytes(const struct key *key, const char *text, void *to, Error *reterr) {
    static const char *const units[] = {"", "K", "M", "G", "T", NULL};
    static const uint64_t factors[] = {1, 1ull << 10, 1ull << 20, 1ull << 30, 1ull << 40};

    return parse_with_unit(key, text, units, factors, to, reterr);
}

static int parse_time(const struct key *key, const char *text, void *to, Error *reterr) {
    static const char *const units[] = {"", "s", "ms", "min", "h", NULL};
    static const uint64_t factors[] = {1000000, 1000000, 1000, 60000000, 3600000000};

    return parse_with_unit(key, text, units, factors, to, reterr);
}

/* 0: no limit. */
static int parse_limit(const struct key *key, const char *text, void *to, Error *reterr) {
    int r = parse_number(key, text, to, reterr);

    if (r == 0 && *(uint64_t *)to == 0)
        *(uint64_t *)to = QUOTA_UNLIMITED;
    return r;
}

static int parse_time_or_forever(const struct key *key, const char *text, void *to, Error *reterr) {
    if (strcmp(text, "infinity") != 0)
        return parse_time(key, text, to, reterr);
    *(uint64_t *)to = CONFIG_FOREVER;
    return 0;
}

static int parse_bool(const struct key *key, const char *text, void *to, Error *reterr) {
    static const char *const words[] = {"no", "yes", "false", "true", "off", "on", "0", "1"};

    (void)key;
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (strcmp(text, words[i]) == 0) {
            *(uint64_t *)to = i % 2;
            return 0;
        }
    return error_set(reterr, -EINVAL, "yes or no is expected");
}

/* The words end with NULL and are all ours: they fit. */
static int refuse_word(const char *const *words, Error *reterr) {
    char list[ERROR_TEXT_MAX / 2];
    size_t n = 0;

    for (size_t i = 0; words[i]; i++) {
        n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", i > 0 ? ", " : "", words[i]);
        assert(n < sizeof(list));
    }
    return error_set(reterr, -EINVAL, "one of %s is expected", list);
}

/* The number is the word's place. */
static int parse_word(const struct key *key, const char *text, void *to, Error *reterr) {
    for (size_t i = 0; key->words[i]; i++)
        if (strcmp(text, key->words[i]) == 0) {
            *(uint64_t *)to = i;
            return 0;
        }
    return refuse_word(key->words, reterr);
}

static int parse_isa(const struct key *key, const char *text, void *to, Error *reterr) {
    const char *const *names = gk_isa_names();

    for (size_t i = 0; *text && strcmp(text, names[i]) != 0; i++)
        if (!names[i + 1])
            return refuse_word(names, reterr);
    return parse_text(key, text, to, reterr);
}

static int parse_chat_template(const struct key *key, const char *text, void *to, Error *reterr) {
    CLEANUP(freep) char *template = NULL;
    int r = *text ? chat_load_template(text, &template, reterr) : 0;

    return r < 0 ? r : parse_text(key, text, to, reterr);
}

/* ---- the table ---- */

static const char *const log_levels[] = {"error", "warning", "notice", "info", "debug", NULL};
static const char *const sharing[] = {"private", "shared", NULL};
static const char *const priorities[] = {"interactive", "normal", "batch", NULL};

_Static_assert(LOG_LEVEL_DEBUG == 4 && GK_KV_F16 == 0 && GK_KV_F32 == 1 && GK_KV_Q8_0 == 2 &&
                   SCHED_CLASS_BATCH == 2,
               "places are numbers");

#define AT(field)       offsetof(Config, field)
#define AT_MODEL(field) offsetof(struct config_model, field)
#define AT_LIMIT(kind)  AT(limits[QUOTA_##kind])

/* clang-format off */
static const struct key keys[] = {
    {"daemon", "socket", parse_text, AT(socket), "/run/grokd/grokd.sock",
     "path of the socket; not used where systemd passes one", 0, SOCKET_PATH_MAX, NULL},
    {"daemon", "socket_mode", parse_mode, AT(socket_mode), "0660", "its file mode", 0, 0777, NULL},
    {"daemon", "socket_group", parse_text, AT(socket_group), "",
     "its group; empty: the one that grokd runs with", 0, 255, NULL},
    {"daemon", "log_level", parse_word, AT(log_level), "info",
     "least important messages logged: error, warning, notice, info, debug", 0, 0, log_levels},
    {"daemon", "drain_timeout", parse_time, AT(drain_us), "30s",
     "how long running requests may go on after SIGTERM", 0, SECONDS_MAX * 1000000, NULL},
    {"daemon", "write_timeout", parse_time, AT(write_us), "60s",
     "a connection whose peer reads nothing for so long is closed", 100000, SECONDS_MAX * 1000000, NULL},

    {"engine", "threads", parse_number, AT(n_threads), "0",
     "compute threads; 0: the CPUs that grokd may use", 0, 1024, NULL},
    {"engine", "instruction_set", parse_isa, AT(isa), "",
     "kernels at most this tier: generic, avx2, avxvnni, avx512, vnni, amx; empty: the best", 0, 32, NULL},
    {"engine", "kv_memory", parse_bytes, AT(kv_bytes), "0",
     "memory for each model's KV cache; 0: an eighth of what is available at most", 0, NUMBER_MAX, NULL},
    {"engine", "kv_type", parse_word, AT(kv_type), "f16", "its numbers: f16, f32, or q8_0, half as large", 0, 0, gk_kv_type_names},
    {"engine", "exact_floats", parse_bool, AT(exact_floats), "no",
     "float weights give the same bits in every batch, more slowly", 0, 0, NULL},
    {"engine", "prefix_cache", parse_bool, AT(prefix_cache), "yes",
     "keep what was computed for prompts that begin like earlier ones", 0, 0, NULL},
    {"engine", "prefix_sharing", parse_word, AT(prefix_shared), "private",
     "shared: requests may let other users' requests use it, too", 0, 0, sharing},
    {"engine", "prefix_state", parse_text, AT(prefix_state), "",
     "directory where it is kept while grokd does not run; empty: nowhere", 0, 4096, NULL},
    {"engine", "prefix_state_max", parse_bytes, AT(prefix_state_bytes_max), "4G",
     "of each model, so much is kept there", 0, NUMBER_MAX, NULL},
    {"engine", "speculation", parse_bool, AT(speculation), "yes",
     "guess tokens by what came before in the text, where steps with guesses are faster", 0, 0, NULL},
    {"engine", "preload", parse_bool, AT(preload), "yes",
     "read the whole model before it is ready", 0, 0, NULL},
    {"engine", "lock", parse_bool, AT(lock), "no",
     "keep models in memory, whatever else needs it", 0, 0, NULL},
    {"engine", "hugepages", parse_bool, AT(hugepages), "yes",
     "ask the kernel for huge pages for models and their KV caches", 0, 0, NULL},
    {"engine", "context_max", parse_number, AT(n_context_max), "0",
     "positions a request may have; 0: as the model says", 0, UINT32_MAX, NULL},
    {"engine", "max_sequences", parse_number, AT(n_sequences_max), "64",
     "requests of a model that run together; others wait", 1, 4096, NULL},
    {"engine", "step_rows", parse_number, AT(n_step_rows), "512",
     "prompt tokens in one step at most; fewer take less memory", 1, 8192, NULL},
    {"engine", "target_token_time", parse_time, AT(target_us), "200ms",
     "prompts may stretch the time between two tokens of others up to this", 1000, 10000000, NULL},
    {"engine", "keep_alive", parse_time_or_forever, AT(keep_us), "infinity",
     "a model that nobody has used for so long is unloaded; 0 or infinity: never", 0, SECONDS_MAX * 1000000, NULL},
    {"engine", "model_memory_max", parse_bytes, AT(model_bytes_max), "0",
     "of all models that are loaded, with their KV caches; 0: what memory is available", 0, NUMBER_MAX, NULL},

    {"requests", "default_max_tokens", parse_number, AT(n_tokens_default), "512",
     "tokens to generate where a request says nothing", 1, UINT32_MAX, NULL},
    {"requests", "default_timeout", parse_time, AT(timeout_default_us), "0",
     "time a request has where it says nothing; 0: no limit", 0, SECONDS_MAX * 1000000, NULL},
    {"requests", "max_timeout", parse_time, AT(timeout_max_us), "0",
     "time a request may ask for; longer ones get this; 0: no limit", 0, SECONDS_MAX * 1000000, NULL},
    {"requests", "default_priority", parse_word, AT(priority_default), "normal",
     "of requests that say nothing: interactive, normal, batch", 0, 0, priorities},

    {"limits", "max_connections", parse_number, AT(n_connections_max), "4096",
     "connections at once", 1, 65536, NULL},
    {"limits", "max_requests", parse_number, AT(n_requests_max), "4096",
     "requests under way at once, waiting ones included", 1, 65536, NULL},
    {"limits", "max_queued_requests", parse_number, AT(n_queued_max), "512",
     "requests of a model that wait to be computed", 0, 65536, NULL},
    {"limits", "max_user_queued_requests", parse_number, AT_LIMIT(QUEUED), "256",
     "of these, requests of one user", 0, 65536, NULL},
    {"limits", "max_user_connections", parse_number, AT_LIMIT(CONNECTIONS), "512",
     "connections of one user", 1, 65536, NULL},
    {"limits", "max_user_requests", parse_number, AT_LIMIT(REQUESTS), "512",
     "requests of one user", 1, 65536, NULL},
    {"limits", "max_user_bytes", parse_bytes, AT_LIMIT(BYTES), "64M",
     "bytes of one user's requests under way, and of answers left unread", 4096, NUMBER_MAX, NULL},
    {"limits", "max_user_tokens", parse_limit, AT_LIMIT(TOKENS), "0",
     "prompt tokens and max_tokens of one user's requests under way; 0: no limit", 0, NUMBER_MAX, NULL},
    {"limits", "max_user_kv_pages", parse_limit, AT_LIMIT(KV_PAGES), "0",
     "KV pages (of 64 positions) of one user's requests under way; 0: no limit", 0, NUMBER_MAX, NULL},
    {"limits", "max_user_context", parse_limit, AT_LIMIT(CONTEXT), "0",
     "positions that one request of a user may have; 0: no limit but the model's", 0, NUMBER_MAX, NULL},
    {"limits", "max_user_window_tokens", parse_limit, AT_LIMIT(WINDOW), "0",
     "tokens computed for one user within token_window; 0: no limit", 0, NUMBER_MAX, NULL},
    {"limits", "token_window", parse_time, AT(window_us), "60s",
     "the time that max_user_window_tokens is for", 1000000, SECONDS_MAX * 1000000, NULL},
    {"limits", "max_unread_bytes", parse_bytes, AT(n_output_bytes_max), "1M",
     "output of one request that its client has not read; beyond it the request is ended", 4096, 1u << 30, NULL},

    {"access", "inference_allow", parse_text, AT(access[CONFIG_INFERENCE].allow), "*",
     "users and @groups that may ask for text; *: whoever can open the socket", 0, NAMES_MAX, NULL},
    {"access", "inference_deny", parse_text, AT(access[CONFIG_INFERENCE].deny), "",
     "users and @groups that may not, even if allowed", 0, NAMES_MAX, NULL},
    {"access", "models_allow", parse_text, AT(access[CONFIG_MODELS].allow), "",
     "users and @groups that may load and unload models, beside root and grokd's own user", 0, NAMES_MAX, NULL},
    {"access", "models_deny", parse_text, AT(access[CONFIG_MODELS].deny), "",
     "users and @groups that may not, even if allowed", 0, NAMES_MAX, NULL},
    {"access", "admin_allow", parse_text, AT(access[CONFIG_ADMIN].allow), "",
     "users and @groups that may see status and top, beside root and grokd's own user", 0, NAMES_MAX, NULL},
    {"access", "admin_deny", parse_text, AT(access[CONFIG_ADMIN].deny), "",
     "users and @groups that may not, even if allowed", 0, NAMES_MAX, NULL},

    {MODEL_SECTION, "path", parse_text, AT_MODEL(path), "",
     "the GGUF file; of a split model its first", 0, 4096, NULL},
    {MODEL_SECTION, "load", parse_bool, AT_MODEL(load), "yes", "load it at start", 0, 0, NULL},
    {MODEL_SECTION, "default", parse_bool, AT_MODEL(is_default), "no",
     "answers requests that name no model; none: the first", 0, 0, NULL},
    {MODEL_SECTION, "kv_memory", parse_bytes, AT_MODEL(kv_bytes), "0",
     "this model's; 0: as in [engine]", 0, NUMBER_MAX, NULL},
    {MODEL_SECTION, "context_max", parse_number, AT_MODEL(n_context_max), "0",
     "this model's; 0: as in [engine]", 0, UINT32_MAX, NULL},
    {MODEL_SECTION, "keep_alive", parse_time_or_forever, AT_MODEL(keep_us), "0",
     "this model's; 0: as in [engine]", 0, SECONDS_MAX * 1000000, NULL},
    {MODEL_SECTION, "pin", parse_bool, AT_MODEL(pin), "no",
     "it stays when others need room or nobody uses it", 0, 0, NULL},
    {MODEL_SECTION, "chat_template", parse_chat_template, AT_MODEL(chat_template), "",
     "of its conversations: a name or a file; empty: the model file's, or else plain", 0, 4096, NULL},
};
/* clang-format on */

static bool is_of_model(const struct key *key) {
    return strcmp(key->section, MODEL_SECTION) == 0;
}

static int set_defaults(void *to, bool of_model) {
    Error error = ERROR_INIT;

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        int r;

        if (is_of_model(&keys[i]) != of_model)
            continue;
        r = keys[i].parse(&keys[i], keys[i].value, (char *)to + keys[i].offset, &error);
        assert(r != -EINVAL);
        if (r < 0)
            return r;
    }
    return 0;
}

int config_init(Config *c) {
    *c = (Config){.socket = NULL};
    return set_defaults(c, false);
}

static void model_deinit(struct config_model *m) {
    free(m->name);
    free(m->path);
    free(m->chat_template);
    *m = (struct config_model){.name = NULL};
}

void config_deinit(Config *c) {
    for (size_t i = 0; i < c->n_models; i++)
        model_deinit(&c->models[i]);
    for (size_t i = 0; i < c->n_accounts; i++)
        free(c->accounts[i].name);
    for (size_t i = 0; i < ARRAY_SIZE(c->access); i++) {
        free(c->access[i].allow);
        free(c->access[i].deny);
    }
    free(c->socket);
    free(c->socket_group);
    free(c->isa);
    free(c->prefix_state);
}

void config_print_keys(FILE *to) {
    const char *section = "";

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        if (strcmp(section, keys[i].section) != 0) {
            section = keys[i].section;
            (void)fprintf(to, "%s[%s%s]\n", i > 0 ? "\n" : "", section,
                          is_of_model(&keys[i]) ? " NAME" : "");
        }
        (void)fprintf(to, "# %s\n#%s = %s\n", keys[i].help, keys[i].name, keys[i].value);
    }
}

/* ---- models ---- */

bool config_is_model_name(const char *name) {
    size_t n = strlen(name);

    if (n == 0 || n > MODEL_NAME_MAX)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("._:-", name[i]))
            return false;
    return true;
}

/* Finds the model or makes it. */
static int get_model(Config *c, const char *name, struct config_model **ret, Error *reterr) {
    struct config_model *m;
    int r;

    if (!config_is_model_name(name))
        return error_set(reterr, -EINVAL,
                         "a model's name has 1 to %d letters, digits or any of ._:-",
                         MODEL_NAME_MAX);
    for (size_t i = 0; i < c->n_models; i++)
        if (strcmp(c->models[i].name, name) == 0) {
            *ret = &c->models[i];
            return 0;
        }
    if (c->n_models == CONFIG_MODELS_MAX)
        return error_set(reterr, -EINVAL, "there are more than %d models", CONFIG_MODELS_MAX);
    m = &c->models[c->n_models];
    *m = (struct config_model){.name = alloc_string(name)};
    r = m->name ? set_defaults(m, true) : -ENOMEM;
    if (r < 0) {
        model_deinit(m);
        return error_set(reterr, r, "out of memory");
    }
    c->n_models++;
    *ret = m;
    return 0;
}

int config_add_model(Config *c, const char *text, Error *reterr) {
    const char *equals = strchr(text, '=');
    CLEANUP(freep) char *name = NULL;
    struct config_model *m;
    char *path;
    int r;

    if (!equals || equals[1] == '\0')
        return error_set(reterr, -EINVAL, "--model '%.100s': NAME=PATH is expected", text);
    name = alloc_string_n(text, (size_t)(equals - text));
    path = alloc_string(equals + 1);
    r = name && path ? get_model(c, name, &m, reterr) : error_set(reterr, -ENOMEM, "out of memory");
    if (r < 0) {
        free(path);
        error_prefix(reterr, "--model '%.100s'", text);
        return r;
    }
    free(m->path);
    m->path = path;
    m->load = true;
    return 0;
}

int config_check(const Config *c) {
    const char *first = NULL;
    int r = 0;

    for (size_t i = 0; i < c->n_models; i++) {
        const struct config_model *m = &c->models[i];

        if (m->path[0] == '\0') {
            log_error("[model %s] has no path", m->name);
            r = -EINVAL;
        }
        if (m->is_default && first) {
            log_error("[model %s] and [model %s] are both the default", first, m->name);
            r = -EINVAL;
        }
        if (m->is_default)
            first = m->name;
    }
    return r;
}

/* ---- users and groups ---- */

/* Finds the account or makes it. */
static int get_account(Config *c, const char *name, bool is_group, struct config_account **ret,
                       Error *reterr) {
    struct config_account *a;

    if (name[0] == '\0')
        return error_set(reterr, -EINVAL, "a name is expected");
    for (size_t i = 0; i < c->n_accounts; i++)
        if (c->accounts[i].is_group == is_group && strcmp(c->accounts[i].name, name) == 0) {
            *ret = &c->accounts[i];
            return 0;
        }
    if (c->n_accounts == CONFIG_ACCOUNTS_MAX)
        return error_set(reterr, -EINVAL, "there are more than %d users and groups",
                         CONFIG_ACCOUNTS_MAX);
    a = &c->accounts[c->n_accounts];
    *a = (struct config_account){.name = alloc_string(name), .is_group = is_group};
    if (!a->name)
        return error_set(reterr, -ENOMEM, "out of memory");
    for (int i = 0; i < _QUOTA_N; i++)
        a->limits[i] = CONFIG_UNSET;
    c->n_accounts++;
    *ret = a;
    return 0;
}

/* The keys of [limits] that may stand in [user NAME] and [group NAME], too. */
static bool is_of_account(const struct key *key) {
    return key->offset >= AT(limits) && key->offset < AT(limits) + sizeof(((Config *)0)->limits);
}

/* ---- files ---- */

/* Where a file's reader is. `model` counts in a section [model NAME] only, `account` in [user NAME]
 * and [group NAME], where the keys are those of [limits]. */
struct place {
    Config *config;
    const char *file;
    unsigned line;
    char section[32];
    struct config_model *model;
    struct config_account *account;
    int r; /* -EINVAL after a mistake */
};

static void complain(struct place *at, const char *text) {
    log_error("%s:%u: %s", at->file, at->line, text);
    at->r = -EINVAL;
}

static char *trim(char *text) {
    size_t n;

    while (isspace((unsigned char)*text))
        text++;
    n = strlen(text);
    while (n > 0 && isspace((unsigned char)text[n - 1]))
        text[--n] = '\0';
    return text;
}

/* The rest of the line where it is "WORD rest"; NULL: it is not. */
static char *after_word(char *line, const char *word) {
    size_t n = strlen(word);

    return strncmp(line, word, n) == 0 && line[n] == ' ' ? trim(line + n) : NULL;
}

/* [model NAME], [user NAME], [group NAME]. Returns false where it is none of these. */
static bool begin_named_section(struct place *at, char *section) {
    char *model = after_word(section, MODEL_SECTION), *user = after_word(section, "user"),
         *group = after_word(section, "group");
    Error error = ERROR_INIT;
    int r;

    if (!model && !user && !group)
        return false;
    if (model)
        r = get_model(at->config, model, &at->model, &error);
    else
        r = get_account(at->config, user ? user : group, group != NULL, &at->account, &error);
    if (r < 0)
        complain(at, error.text);
    else
        (void)snprintf(at->section, sizeof(at->section), "%s",
                       model ? MODEL_SECTION : LIMITS_SECTION);
    return true;
}

static void begin_section(struct place *at, char *line) {
    size_t n = strlen(line);
    char sentence[160];
    char *name = line + 1;

    at->model = NULL;
    at->account = NULL;
    at->section[0] = '\0';
    if (line[n - 1] != ']') {
        complain(at, "a section's line ends with ']'");
        return;
    }
    line[n - 1] = '\0';
    if (begin_named_section(at, name))
        return;
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (!is_of_model(&keys[i]) && strcmp(keys[i].section, name) == 0) {
            (void)snprintf(at->section, sizeof(at->section), "%s", name);
            return;
        }
    (void)snprintf(sentence, sizeof(sentence), "there is no section [%.100s]", name);
    complain(at, sentence);
}

/* Where the key's value goes in this section, NULL: nowhere. */
static void *find_value(const struct place *at, const struct key *key) {
    if (at->model)
        return (char *)at->model + key->offset;
    if (!at->account)
        return (char *)at->config + key->offset;
    return is_of_account(key) ? (char *)at->account->limits + (key->offset - AT(limits)) : NULL;
}

static void set_key(struct place *at, const char *name, const char *text) {
    char sentence[ERROR_TEXT_MAX + 128];
    Error error = ERROR_INIT;

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        void *value;

        if (strcmp(keys[i].section, at->section) != 0 || strcmp(keys[i].name, name) != 0)
            continue;
        value = find_value(at, &keys[i]);
        if (!value)
            break;
        /* As in systemd: nothing means the default again. */
        if (!*text && at->account) {
            *(uint64_t *)value = CONFIG_UNSET;
        } else if (keys[i].parse(&keys[i], *text ? text : keys[i].value, value, &error) < 0) {
            (void)snprintf(sentence, sizeof(sentence), "%s = %.64s: %s", name, text, error.text);
            complain(at, sentence);
        }
        return;
    }
    if (at->account)
        (void)snprintf(sentence, sizeof(sentence), "a %s has no key '%.64s'",
                       at->account->is_group ? "group" : "user", name);
    else
        (void)snprintf(sentence, sizeof(sentence), "section [%.64s] has no key '%.64s'",
                       at->section, name);
    complain(at, sentence);
}

static void read_line(struct place *at, char *text) {
    char *line = trim(text), *equals;

    if (*line == '\0' || *line == '#' || *line == ';')
        return;
    if (*line == '[') {
        begin_section(at, line);
        return;
    }
    equals = strchr(line, '=');
    if (!equals) {
        complain(at, "neither [section] nor key = value");
        return;
    }
    if (at->section[0] == '\0') {
        complain(at, "a key outside of every known section");
        return;
    }
    *equals = '\0';
    set_key(at, trim(line), trim(equals + 1));
}

static int load_file(Config *c, const char *path, bool is_required) {
    struct place *at;
    char line[LINE_MAX_BYTES];
    FILE *file = fopen(path, "re");
    int r;

    if (!file) {
        if (errno == ENOENT && !is_required)
            return 0;
        log_error("%s: cannot open: %m", path);
        return -EINVAL;
    }
    at = alloc_new(struct place);
    if (!at) {
        (void)fclose(file);
        return -ENOMEM;
    }
    at->config = c;
    at->file = path;
    while (fgets(line, sizeof(line), file)) {
        at->line++;
        if (strlen(line) == sizeof(line) - 1) {
            complain(at, "the line is too long");
            break;
        }
        read_line(at, line);
    }
    if (ferror(file)) {
        log_error("%s: cannot read: %m", path);
        at->r = -EINVAL;
    }
    (void)fclose(file);
    r = at->r;
    free(at);
    return r;
}

static int is_drop_in(const struct dirent *entry) {
    size_t n = strlen(entry->d_name), n_end = strlen(DROP_IN_END);

    return entry->d_name[0] != '.' && n > n_end &&
           strcmp(entry->d_name + n - n_end, DROP_IN_END) == 0;
}

int config_load(Config *c, const char *path, bool is_required) {
    int r = load_file(c, path, is_required), n;
    struct dirent **found = NULL;
    char file[4096];

    n = snprintf(file, sizeof(file), "%s.d", path);
    if (n < 0 || (size_t)n >= sizeof(file)) {
        log_error("the path of the configuration is too long");
        return -EINVAL;
    }
    n = scandir(file, &found, is_drop_in, alphasort);
    if (n < 0 && errno != ENOENT && errno != ENOTDIR) {
        log_error("%s: cannot list: %m", file);
        return -EINVAL;
    }
    for (int i = 0; i < n; i++) {
        if ((size_t)snprintf(file, sizeof(file), "%s.d/%s", path, found[i]->d_name) < sizeof(file))
            r = MIN(r, load_file(c, file, true));
        else {
            log_error("%s.d/%s: the path is too long", path, found[i]->d_name);
            r = -EINVAL;
        }
        free(found[i]);
    }
    free(found);
    return r;
}
