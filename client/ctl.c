/* What grokctl's commands share: connecting, failing, reading text, printing. See command.h. */
#include "client/command.h"

#include "base/macro.h"
#include "base/number.h"
#include "base/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The largest text that is read for a request: the daemon takes messages up to 4 MiB. */
#define TEXT_BYTES_MAX (4u << 20)

static volatile sig_atomic_t interrupted, patience = 1;

static void on_interrupt(int number) {
    (void)number;
    if (interrupted == patience)
        _exit(EXIT_INTERRUPTED);
    interrupted++;
}

static void catch_signal(int number, int flags) {
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = flags};

    (void)sigaction(number, &action, NULL);
}

/* poll(2) ends all the same; but a write that ended would be an error of the stream for ever. */
void ctl_catch_interrupt(void) {
    catch_signal(SIGINT, SA_RESTART);
    catch_signal(SIGTERM, SA_RESTART);
}

void ctl_interrupt_reads(bool are_ended) {
    catch_signal(SIGINT, are_ended ? 0 : SA_RESTART);
}

void ctl_clear_interrupt(void) {
    interrupted = 0;
    patience = 3;
}

double ctl_rate(uint64_t n, uint64_t us) {
    return us > 0 ? (double)n * 1e6 / (double)us : 0;
}

bool ctl_interrupted(void) {
    return interrupted != 0;
}

void ctl_complain(const char *format, ...) {
    va_list args;

    (void)fflush(stdout);
    (void)fputs("grokctl: ", stderr);
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
}

int ctl_flush(void) {
    if (fflush(stdout) == 0 && !ferror(stdout))
        return EXIT_OK;
    return ctl_fail(EXIT_OUTPUT, "can't write to standard output: %s", strerror(errno));
}

int ctl_print_json(json_t *object) {
    int r = object ? json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) : -1;

    json_decref(object);
    if (r != 0)
        return ctl_fail(EXIT_OUTPUT, "can't write JSON to standard output");
    (void)fputc('\n', stdout);
    return ctl_flush();
}

int ctl_connect(Ctl *ctl) {
    struct grokd_error error;

    if (ctl->client)
        return 0;
    if (grokd_connect(&ctl->client, ctl->socket_path, &error) != GROKD_OK) {
        (void)ctl_fail_call(ctl, &error);
        return EXIT_UNREACHABLE;
    }
    return 0;
}

int ctl_fail_call(const Ctl *ctl, const struct grokd_error *error) {
    if (ctl->json) {
        json_t *o = json_pack("{s:s, s:o}", "code", grokd_code_name(error->code), "message",
                              ctl_json_text(error->text, strlen(error->text)));
        int r;

        if (error->retry_after_ms > 0)
            json_object_set_new(o, "retry_after_ms", json_integer(error->retry_after_ms));
        r = ctl_print_json(json_pack("{s:o}", "error", o));
        return r == EXIT_OK ? EXIT_REFUSED : r;
    }
    return ctl_fail(EXIT_REFUSED, "%s", error->text);
}

int ctl_parse_priority(const char *text, int *ret) {
    static const char *const names[] = {[GROKD_PRIORITY_INTERACTIVE] = "interactive",
                                        [GROKD_PRIORITY_NORMAL] = "normal",
                                        [GROKD_PRIORITY_BATCH] = "batch"};

    *ret = GROKD_PRIORITY_UNSPECIFIED;
    if (!text)
        return 0;
    for (size_t i = GROKD_PRIORITY_INTERACTIVE; i < ARRAY_SIZE(names); i++)
        if (strcmp(text, names[i]) == 0) {
            *ret = (int)i;
            return 0;
        }
    return ctl_fail(EXIT_USAGE, "--priority takes interactive, normal or batch, not '%s'", text);
}

int ctl_next(grokd_call *call, const struct grokd_event **ret_event, struct grokd_error *error) {
    int r;

    /* Looked at before every event, since a fast answer never makes us wait. A signal between the
     * look and the wait is seen when the wait's time is over. Cancelling twice does nothing. */
    do {
        if (ctl_interrupted())
            grokd_call_cancel(call);
        r = grokd_call_next(call, 250, ret_event, error);
    } while (r == GROKD_NEXT_WAIT);
    return r;
}

static int append_file(FILE *file, const char *name, char **text, size_t *n) {
    size_t capacity = 0;

    for (;;) {
        size_t got;

        if (*n + 1 >= capacity) {
            char *larger;

            capacity = capacity ? capacity * 2 : 4096;
            larger = realloc(*text, capacity);
            if (!larger)
                return ctl_fail(EXIT_REFUSED, "out of memory");
            *text = larger;
        }
        got = fread(*text + *n, 1, capacity - *n - 1, file);
        *n += got;
        (*text)[*n] = '\0';
        if (*n > TEXT_BYTES_MAX)
            return ctl_fail(EXIT_USAGE, "%s is longer than the %u bytes that a request may have",
                            name, TEXT_BYTES_MAX);
        if (got == 0)
            break;
    }
    if (ferror(file))
        return ctl_fail(EXIT_USAGE, "can't read %s: %s", name, strerror(errno));
    return 0;
}

static int join_arguments(int argc, char **argv, char **text, size_t *n) {
    size_t total = 0;

    for (int i = 0; i < argc; i++)
        total += strlen(argv[i]) + 1;
    *text = malloc(total + 1);
    if (!*text)
        return ctl_fail(EXIT_REFUSED, "out of memory");
    for (int i = 0; i < argc; i++) {
        size_t length = strlen(argv[i]);

        if (i > 0)
            (*text)[(*n)++] = ' ';
        (void)memcpy(*text + *n, argv[i], length);
        *n += length;
    }
    (*text)[*n] = '\0';
    return 0;
}

int ctl_read_text(const char *path, int argc, char **argv, char **ret) {
    CLEANUP(freep) char *text = NULL;
    size_t n = 0;
    FILE *file;
    int r;

    if (path && argc > 0)
        return ctl_fail(EXIT_USAGE, "give the text as arguments or with --file, not both");
    if (argc > 0) {
        r = join_arguments(argc, argv, &text, &n);
    } else if (path && strcmp(path, "-") != 0) {
        file = fopen(path, "re");
        if (!file)
            return ctl_fail(EXIT_USAGE, "can't open %s: %s", path, strerror(errno));
        r = append_file(file, path, &text, &n);
        (void)fclose(file);
    } else {
        if (!path && isatty(STDIN_FILENO))
            (void)fputs("grokctl: reading the text from the terminal; end it with Ctrl-D\n",
                        stderr);
        r = append_file(stdin, "standard input", &text, &n);
    }
    if (r != 0)
        return r;
    if (strlen(text) != n)
        return ctl_fail(EXIT_USAGE, "the text holds a zero byte, at offset %zu", strlen(text));
    *ret = take_ptr(text);
    return 0;
}

static int bad_number(const char *option, const char *text, const char *what) {
    return ctl_fail(EXIT_USAGE, "--%s takes %s, not '%s'", option, what, text);
}

int ctl_parse_u64(const char *option, const char *text, uint64_t *ret) {
    const char *rest = number_read(text, UINT64_MAX, ret);

    return rest && *rest == '\0' ? 0 : bad_number(option, text, "a whole number");
}

int ctl_parse_u32(const char *option, const char *text, uint32_t *ret) {
    uint64_t v;
    int r;

    r = ctl_parse_u64(option, text, &v);
    if (r != 0)
        return r;
    if (v > UINT32_MAX)
        return bad_number(option, text, "a whole number below 4294967296");
    *ret = (uint32_t)v;
    return 0;
}

int ctl_parse_i32(const char *option, const char *text, int32_t *ret) {
    char *end;
    long v;

    errno = 0;
    v = strtol(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || v < INT32_MIN || v > INT32_MAX)
        return bad_number(option, text, "a token id");
    *ret = (int32_t)v;
    return 0;
}

int ctl_parse_float(const char *option, const char *text, float *ret) {
    char *end;
    float v;

    errno = 0;
    v = strtof(text, &end);
    if (end == text || *end != '\0' || isnan(v) || (errno == ERANGE && isinf(v)))
        return bad_number(option, text, "a number");
    *ret = v;
    return 0;
}

int ctl_parse_ids(const char *text, int32_t **ret, size_t *ret_n) {
    static const char blanks[] = " \t\r\n,";
    CLEANUP(freep) int32_t *ids = calloc(strlen(text) / 2 + 1, sizeof(*ids));
    size_t n = 0;

    if (!ids)
        return ctl_fail(EXIT_REFUSED, "out of memory");
    for (text += strspn(text, blanks); *text != '\0'; text += strspn(text, blanks)) {
        size_t length = strcspn(text, blanks);
        char word[16];
        int r;

        (void)snprintf(word, sizeof(word), "%.*s", (int)MIN(length, sizeof(word) - 1), text);
        r = ctl_parse_i32("tokens", word, &ids[n]);
        if (r != 0)
            return r;
        n++;
        text += length;
    }
    *ret_n = n;
    *ret = take_ptr(ids);
    return 0;
}

int ctl_read_prompt(const struct text_options *o, int argc, char **argv, char **ret_text,
                    int32_t **ret_ids, size_t *ret_n_ids) {
    int r;

    if (o->bos && o->no_bos)
        return ctl_fail(EXIT_USAGE, "--bos and --no-bos exclude each other");
    r = ctl_read_text(o->file, argc, argv, ret_text);
    if (r != 0 || !o->tokens)
        return r;
    return ctl_parse_ids(*ret_text, ret_ids, ret_n_ids);
}

json_t *ctl_json_summary(const struct grokd_model_summary *m) {
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:b, s:b, s:b, s:I, s:I, s:I, s:I}", "name", m->name,
        "path", m->path, "state", grokd_model_state_name(m->state), "error", m->error,
        "architecture", m->architecture, "parameters", (json_int_t)m->parameters, "file_bytes",
        (json_int_t)m->file_bytes, "is_default", m->is_default, "is_demo", m->is_demo, "pinned",
        m->pinned, "users", (json_int_t)m->users, "idle_us", (json_int_t)m->idle_us,
        "keep_alive_us", (json_int_t)m->keep_alive_us, "retry_us", (json_int_t)m->retry_us);
}

json_t *ctl_json_usage(const struct grokd_usage *u) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "prompt_tokens",
                     (json_int_t)u->prompt_tokens, "generated_tokens",
                     (json_int_t)u->generated_tokens, "cached_tokens", (json_int_t)u->cached_tokens,
                     "queued_us", (json_int_t)u->queued_us, "prefill_us", (json_int_t)u->prefill_us,
                     "decode_us", (json_int_t)u->decode_us, "seed", (json_int_t)u->seed,
                     "drafted_tokens", (json_int_t)u->drafted_tokens, "accepted_tokens",
                     (json_int_t)u->accepted_tokens);
}

static json_t *json_logprob(const struct grokd_logprob *p) {
    return json_pack("{s:i, s:f, s:o}", "token", p->token, "logprob", (double)p->logprob, "text",
                     ctl_json_text(p->text, p->n_text));
}

json_t *ctl_json_logprobs(const struct grokd_token_logprobs *tokens, size_t n) {
    json_t *all = json_array();

    for (size_t i = 0; i < n; i++) {
        json_t *top = json_array();

        for (size_t j = 0; j < tokens[i].n_top; j++)
            json_array_append_new(top, json_logprob(&tokens[i].top[j]));
        json_array_append_new(
            all,
            json_pack("{s:o, s:o}", "chosen",
                      tokens[i].chosen ? json_logprob(tokens[i].chosen) : json_null(), "top", top));
    }
    return all;
}

/* The text as a JSON string, so that spaces, newlines and stray bytes can be seen. */
static void print_token_text(const struct grokd_logprob *p) {
    json_t *text = ctl_json_text(p->text, p->n_text);

    if (text)
        (void)json_dumpf(text, stdout, JSON_ENCODE_ANY);
    json_decref(text);
}

void ctl_print_logprobs(const struct grokd_token_logprobs *tokens, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const struct grokd_logprob *chosen = tokens[i].chosen;

        if (!chosen)
            continue;
        if (i == 0 && tokens[i].n_top == 0 && chosen->logprob == 0)
            (void)printf("%10s  %6d  ", "-", chosen->token);
        else
            (void)printf("%10.4f  %6d  ", (double)chosen->logprob, chosen->token);
        print_token_text(chosen);
        for (size_t j = 0; j < tokens[i].n_top; j++) {
            (void)printf("%s %.4f ", j == 0 ? "\t" : " ", (double)tokens[i].top[j].logprob);
            print_token_text(&tokens[i].top[j]);
        }
        (void)putchar('\n');
    }
}

json_t *ctl_json_text(const char *bytes, size_t n) {
    static const char replacement[] = "\xEF\xBF\xBD";
    CLEANUP(freep) char *clean = malloc(n * 3 + 1);
    size_t to = 0;

    if (!clean)
        return NULL;
    for (size_t i = 0; i < n;) {
        uint32_t code;
        size_t length = utf8_decode(bytes + i, n - i, &code);

        (void)memcpy(clean + to, length ? bytes + i : replacement, length ? length : 3);
        to += length ? length : 3;
        i += length ? length : 1;
    }
    return json_stringn_nocheck(clean, to);
}
