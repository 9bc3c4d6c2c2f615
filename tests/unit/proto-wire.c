/*
 * Replays the transcripts of tests/wire against the server codec: each whole, split in two at every
 * byte, and byte by byte. All must give what the file says.
 *
 * A transcript has one step a line:
 *
 *     # comment
 *     > BYTES        the peer sends this; lines in a row are one piece
 *     = EVENT        the codec's next event: "request ID SERVICE/METHOD PAYLOAD timeout=N",
 *                    "cancel ID", "failed ERRNO"
 *     < BYTES        the codec's next bytes
 *     ! ACTION       the owner does this: "finish ID CODE PAYLOAD|SENTENCE", "send ID PAYLOAD",
 *                    "eof"
 *     ? streams N    so many calls are alive; "? finished yes|no"
 *
 * BYTES are hex digits and "text" in quotes; blanks and | between them mean nothing. PAYLOAD is hex
 * or "-" for none. At the end no event and no byte may be left over. The service test.Echo has the
 * methods Unary and Stream.
 */
#include "base/alloc.h"
#include "base/buf.h"
#include "proto/codec.h"
#include "tests/util/test.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define LOG_MAX   (1u << 20)
#define STEPS_MAX 1000

struct step {
    char kind; /* the line's first character */
    unsigned line;
    Buf bytes;  /* of > and < */
    char *text; /* of = ! ? */
};

struct transcript {
    const char *name;
    struct step steps[STEPS_MAX];
    size_t n_steps, n_fed; /* bytes of all > steps */
};

struct run {
    const struct transcript *transcript;
    void *codec;
    Buf events; /* lines */
    size_t split, n_fed;
    bool is_bytewise, has_failed;
};

#define EXPECT(run, step, condition)                                                               \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            (void)fprintf(stderr, "%s:%u: %s, split at %zu%s\n", (run)->transcript->name,          \
                          (step)->line, #condition, (run)->split,                                  \
                          (run)->is_bytewise ? ", byte by byte" : "");                             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static void parse_bytes(const char *text, Buf *to) {
    unsigned value;

    while (*text) {
        if (*text == '"') {
            const char *end = strchr(text + 1, '"');

            assert(end);
            assert(buf_append(to, text + 1, (size_t)(end - text - 1)) == 0);
            text = end + 1;
        } else if (isxdigit((unsigned char)text[0]) && isxdigit((unsigned char)text[1])) {
            assert(sscanf(text, "%2x", &value) == 1);
            assert(buf_append(to, &(uint8_t){(uint8_t)value}, 1) == 0);
            text += 2;
        } else {
            assert(strchr(" |-", *text));
            text++;
        }
    }
}

static void read_transcript(struct transcript *t, const char *path, const char *name) {
    FILE *file = fopen(path, "re");
    char line[4096];
    unsigned number = 0;

    assert(file);
    t->name = name;
    while (fgets(line, sizeof(line), file)) {
        struct step *last = t->n_steps > 0 ? &t->steps[t->n_steps - 1] : NULL;

        number++;
        assert(strlen(line) < sizeof(line) - 1);
        line[strcspn(line, "\n")] = 0;
        if (line[0] == 0 || line[0] == '#')
            continue;
        assert(strchr("><=!?", line[0]) && line[1] == ' ');
        if (!last || line[0] != '>' || last->kind != '>') {
            assert(t->n_steps < STEPS_MAX);
            last = &t->steps[t->n_steps++];
            *last = (struct step){.kind = line[0], .line = number, .bytes = BUF_INIT(LOG_MAX)};
        }
        if (line[0] == '>' || line[0] == '<')
            parse_bytes(line + 2, &last->bytes);
        else
            assert((last->text = alloc_string(line + 2)));
    }
    for (size_t i = 0; i < t->n_steps; i++)
        t->n_fed += t->steps[i].kind == '>' ? buf_size(&t->steps[i].bytes) : 0;
    (void)fclose(file);
}

/* ---- the owner ---- */

static enum codec_kind on_kind(void *userdata, const char *service, const char *method) {
    (void)userdata;
    if (strcmp(service, "test.Echo") != 0)
        return CODEC_UNKNOWN_SERVICE;
    return strcmp(method, "Unary") == 0    ? CODEC_UNARY
           : strcmp(method, "Stream") == 0 ? CODEC_SERVER_STREAM
                                           : CODEC_UNKNOWN_METHOD;
}

PRINTF_FORMAT(2, 3) static void log_event(struct run *run, const char *format, ...) {
    char line[4096];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    assert(n >= 0 && (size_t)n < sizeof(line));
    assert(buf_append(&run->events, line, (size_t)n) == 0);
}

static void on_request(void *userdata, const struct codec_request *request) {
    log_event(userdata, "request %" PRIu64 " %s/%s ", request->stream, request->service,
              request->method);
    for (size_t i = 0; i < request->n_payload; i++)
        log_event(userdata, "%02x", request->payload[i]);
    log_event(userdata, "%s timeout=%" PRId64 "\n", request->n_payload > 0 ? "" : "-",
              request->timeout_ns);
}

static void on_cancel(void *userdata, uint64_t stream) {
    log_event(userdata, "cancel %" PRIu64 "\n", stream);
}

/* ---- steps ---- */

static void feed(struct run *run, const uint8_t *bytes, size_t n) {
    /* A copy of just this size, so that a read beyond the piece is seen. */
    uint8_t *copy = alloc_array(n, 1);
    int r;

    assert(copy);
    (void)memcpy(copy, bytes, n);
    r = ttrpc_codec.feed(run->codec, copy, n);
    free(copy);
    run->n_fed += n;
    assert(r <= 0 && (!run->has_failed || r < 0));
    if (r < 0 && !run->has_failed) {
        log_event(run, "failed %s\n", r == -EPROTO ? "EPROTO" : r == -ENOBUFS ? "ENOBUFS" : "?");
        run->has_failed = true;
    }
}

static void do_feed(struct run *run, const struct step *step) {
    const uint8_t *bytes = buf_bytes(&step->bytes);
    size_t n = buf_size(&step->bytes);
    size_t before = run->split > run->n_fed ? MIN(run->split - run->n_fed, n) : 0;

    if (run->is_bytewise) {
        for (size_t i = 0; i < n; i++)
            feed(run, bytes + i, 1);
        return;
    }
    if (before > 0)
        feed(run, bytes, before);
    if (before < n)
        feed(run, bytes + before, n - before);
}

static void expect_event(struct run *run, const struct step *step) {
    size_t n = strlen(step->text);

    EXPECT(run, step, buf_size(&run->events) > n);
    EXPECT(run, step, memcmp(buf_bytes(&run->events), step->text, n) == 0);
    EXPECT(run, step, buf_bytes(&run->events)[n] == '\n');
    buf_consume(&run->events, n + 1);
}

static void expect_bytes(struct run *run, const struct step *step) {
    const uint8_t *bytes;
    size_t n = buf_size(&step->bytes);

    EXPECT(run, step, ttrpc_codec.pending(run->codec, &bytes) >= n);
    EXPECT(run, step, memcmp(bytes, buf_bytes(&step->bytes), n) == 0);
    ttrpc_codec.drained(run->codec, n);
}

static void do_action(struct run *run, const struct step *step) {
    Buf payload CLEANUP(buf_deinit) = BUF_INIT(LOG_MAX);
    char verb[16], sentence[256] = "";
    unsigned long long stream = 0;
    int code = 0, at = 0, r = 0;

    EXPECT(run, step, sscanf(step->text, "%15s %llu %n", verb, &stream, &at) >= 1);
    if (strcmp(verb, "eof") == 0) {
        ttrpc_codec.feed_eof(run->codec);
    } else if (strcmp(verb, "send") == 0) {
        parse_bytes(step->text + at, &payload);
        r = ttrpc_codec.send_message(run->codec, stream, buf_bytes(&payload), buf_size(&payload));
    } else {
        EXPECT(run, step, sscanf(step->text, "finish %llu %d %n", &stream, &code, &at) == 2);
        if (code != STATUS_OK)
            EXPECT(run, step, sscanf(step->text + at, "\"%255[^\"]", sentence) == 1);
        else
            parse_bytes(step->text + at, &payload);
        r = ttrpc_codec.finish(run->codec, stream, (enum status_code)code, sentence,
                               buf_bytes(&payload), buf_size(&payload));
    }
    EXPECT(run, step, r == 0);
}

static void expect_state(struct run *run, const struct step *step) {
    char word[16];
    size_t n;

    if (sscanf(step->text, "finished %15s", word) == 1) {
        EXPECT(run, step, ttrpc_codec.is_finished(run->codec) == (strcmp(word, "yes") == 0));
        return;
    }
    EXPECT(run, step, sscanf(step->text, "streams %zu", &n) == 1);
    EXPECT(run, step, ttrpc_codec.n_streams(run->codec) == n);
}

static void replay(const struct transcript *t, size_t split, bool is_bytewise) {
    struct run run = {
        .transcript = t, .events = BUF_INIT(LOG_MAX), .split = split, .is_bytewise = is_bytewise};
    struct codec_env env = {
        .userdata = &run, .kind = on_kind, .on_request = on_request, .on_cancel = on_cancel};
    const struct step *step = t->steps;
    const uint8_t *bytes;

    assert((run.codec = alloc_array(1, ttrpc_codec.state_size)));
    assert(ttrpc_codec.init(run.codec, &env) == 0);
    for (; step < t->steps + t->n_steps; step++)
        switch (step->kind) {
        case '>':
            do_feed(&run, step);
            break;
        case '=':
            expect_event(&run, step);
            break;
        case '<':
            expect_bytes(&run, step);
            break;
        case '!':
            do_action(&run, step);
            break;
        default:
            expect_state(&run, step);
        }
    step--;
    EXPECT(&run, step, buf_size(&run.events) == 0);
    EXPECT(&run, step, ttrpc_codec.pending(run.codec, &bytes) == 0);
    ttrpc_codec.deinit(run.codec);
    free(run.codec);
    buf_deinit(&run.events);
}

static void test_transcripts(void) {
    DIR *dir = opendir("tests/wire");
    struct dirent *entry;
    size_t n = 0;

    assert(dir);
    while ((entry = readdir(dir))) {
        struct transcript t = {0};
        char path[300];

        if (!strstr(entry->d_name, ".txt"))
            continue;
        (void)snprintf(path, sizeof(path), "tests/wire/%s", entry->d_name);
        read_transcript(&t, path, path);
        replay(&t, 0, false);
        replay(&t, 0, true);
        for (size_t split = 1; split < t.n_fed; split++)
            replay(&t, split, false);
        for (size_t i = 0; i < t.n_steps; i++) {
            buf_deinit(&t.steps[i].bytes);
            free(t.steps[i].text);
        }
        (void)printf("# %s: %zu steps, %zu bytes\n", path, t.n_steps, t.n_fed);
        n++;
    }
    (void)closedir(dir);
    assert(n > 0);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        {"transcripts", test_transcripts, 30},
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
