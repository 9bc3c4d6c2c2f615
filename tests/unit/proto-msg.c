/* proto/msg: what is decoded, what is refused, and how much memory a peer's bytes can take. */
#include "proto/msg.h"

#include "base/alloc.h"
#include "proto/grokd.pb-c.h"
#include "tests/util/test.h"

#include <errno.h>
#include <string.h>

#define GENERATE (&grokd__v1__generate_request__descriptor)

static int unpack(const void *bytes, size_t n, size_t budget, Error *reterr) {
    Grokd__V1__GenerateRequest *m = NULL;
    MsgArena arena;
    int r;

    msg_arena_init(&arena, budget);
    r = msg_unpack(GENERATE, bytes, n, &arena, &m, reterr);
    assert((r == 0) == (m != NULL));
    assert(arena.n_bytes <= budget);
    msg_arena_deinit(&arena);
    return r;
}

static void test_round_trip_keeps_presence(void) {
    Grokd__V1__GenerateRequest m = GROKD__V1__GENERATE_REQUEST__INIT, *back;
    Grokd__V1__SamplingParams sampling = GROKD__V1__SAMPLING_PARAMS__INIT;
    Buf b CLEANUP(buf_deinit) = BUF_INIT(1000);
    MsgArena arena;

    m.model = (char *)(uintptr_t) "m";
    m.prompt_case = GROKD__V1__GENERATE_REQUEST__PROMPT_TEXT;
    m.text = (char *)(uintptr_t) "żółw";
    m.sampling = &sampling;
    sampling.has_temperature_case = GROKD__V1__SAMPLING_PARAMS__HAS_TEMPERATURE_TEMPERATURE;
    sampling.temperature = 0;
    assert(msg_pack(&m.base, &b) == 0);
    msg_arena_init(&arena, MSG_BUDGET(buf_size(&b)));
    assert(msg_unpack(GENERATE, buf_bytes(&b), buf_size(&b), &arena, &back, NULL) == 0);
    assert(strcmp(back->text, "żółw") == 0 && back->sampling);
    assert(back->sampling->has_temperature_case != 0 && back->sampling->has_top_k_case == 0);
    msg_arena_deinit(&arena);
}

static void test_pack_stops_at_the_cap(void) {
    Grokd__V1__CancelRequest m = GROKD__V1__CANCEL_REQUEST__INIT;
    Buf b CLEANUP(buf_deinit) = BUF_INIT(10);

    assert(msg_pack(&m.base, &b) == 0 && buf_size(&b) == 0);
    m.request_id = (char *)(uintptr_t) "12345678";
    assert(msg_pack(&m.base, &b) == 0 && buf_size(&b) == 10);
    assert(msg_pack(&m.base, &b) == -ENOBUFS && buf_size(&b) == 10);
}

static void test_nothing_is_an_empty_message(void) {
    assert(unpack(NULL, 0, MSG_BUDGET(0), NULL) == 0);
}

static void test_malformed_bytes_are_refused_with_their_place(void) {
    static const struct {
        const char *bytes;
        size_t n;
        const char *words;
    } cases[] = {
        {"\x08", 1, "at byte 0"}, /* a tag without its value */
        {"\x0a\x05"
         "ab",
         4, "at byte 0"},                      /* longer than what is left */
        {"\x0a\x01m\x0b\x0c", 5, "at byte 3"}, /* a group */
        {"\x00\x01", 2, "at byte 0"},          /* field 0 */
        {"\x0e", 1, "at byte 0"},              /* wire type 6 */
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, "at byte 0"},     /* length 2^64 - 1 */
        {"\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12, "at byte 0"}, /* varint of 11 */
        {"\x08\x01", 2, "GenerateRequest"}, /* a string sent as a number */
        {"\x12\x03"
         "a\0b",
         5, "GenerateRequest.text has a zero byte"},
        {"\x12\x01\xff", 3, "GenerateRequest.text is not UTF-8 at byte 0"},
        {"\x12\x03"
         "a\xed\xa0",
         5, "not UTF-8 at byte 1"},                                          /* half a surrogate */
        {"\x22\x04\x52\x02\xc0\x80", 6, "SamplingParams.stop is not UTF-8"}, /* nested; overlong */
        {"\x22\x02\x52\x07", 4, "SamplingParams: malformed field at byte 0"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        Error error = ERROR_INIT;

        assert(unpack(cases[i].bytes, cases[i].n, MSG_BUDGET(cases[i].n), &error) ==
               MSG_E_MALFORMED);
        assert(strstr(error.text, cases[i].words));
    }
}

static void test_every_prefix_is_decoded_or_refused(void) {
    static const char bytes[] = "\x0a\x01m\x12\x04 abc\x22\x0a\x0d\0\0\x80\x3f\x52\x03xyz\x30\x05";
    size_t n_good = 0;

    for (size_t n = 0; n < sizeof(bytes); n++) {
        char *copy = alloc_string_n(bytes, n);
        int r;

        copy = alloc_resize(copy, n); /* no byte beyond */
        r = unpack(copy, n, MSG_BUDGET(n), NULL);
        assert(r == 0 || r == MSG_E_MALFORMED);
        n_good += r == 0;
        free(copy);
    }
    assert(n_good >= 3 && n_good < sizeof(bytes) - 10);
}

/* Two bytes of wire each, some sixty of memory. */
static void test_lists_of_nothing_exceed_the_budget(void) {
    static const struct {
        uint8_t outer, inner;                               /* tags */
    } lists[] = {{0x22, 0x52}, {0x22, 0x62}, {0x22, 0x6a}}; /* stop, banned_strings, logit_bias */
    size_t n = 1u << 20;

    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        Buf b CLEANUP(buf_deinit) = BUF_INIT(n + 8);
        Error error = ERROR_INIT;

        /* 0x200000 - 4 bytes would be 4 bytes of varint; 1 MiB - 4 takes three. */
        assert(buf_append(&b, &(uint8_t[4]){lists[i].outer, 0xfc, 0xff, 0x3f}, 4) == 0);
        while (buf_size(&b) < n)
            assert(buf_append(&b, &(uint8_t[2]){lists[i].inner, 0}, 2) == 0);
        assert(unpack(buf_bytes(&b), n, MSG_BUDGET(n), &error) == MSG_E_TOO_LARGE);
        assert(strstr(error.text, "memory"));
        assert(unpack(buf_bytes(&b), n, 200 * n, NULL) == 0);
    }
}

/* What clients really send must pass: the dense cases within the budget. */
static void test_dense_but_honest_messages_fit(void) {
    Grokd__V1__ScoreResponse m = GROKD__V1__SCORE_RESPONSE__INIT, *back;
    Grokd__V1__TokenLogprobs token = GROKD__V1__TOKEN_LOGPROBS__INIT;
    Grokd__V1__Logprob logprob = GROKD__V1__LOGPROB__INIT, *top[20];
    Grokd__V1__TokenLogprobs **tokens;

    token.chosen = &logprob;
    logprob.logprob = -1;
    for (size_t i = 0; i < ARRAY_SIZE(top); i++)
        top[i] = &logprob;
    token.top = top;
    m.n_tokens = 4000;
    assert((m.tokens = tokens = alloc_array(m.n_tokens, sizeof(*tokens))));
    for (size_t i = 0; i < m.n_tokens; i++)
        tokens[i] = &token;
    for (token.n_top = 0; token.n_top <= 20; token.n_top += 5) {
        Buf b CLEANUP(buf_deinit) = BUF_INIT(4u << 20);
        MsgArena arena;

        assert(msg_pack(&m.base, &b) == 0);
        msg_arena_init(&arena, MSG_BUDGET(buf_size(&b)));
        assert(msg_unpack(m.base.descriptor, buf_bytes(&b), buf_size(&b), &arena, &back, NULL) ==
               0);
        assert(back->n_tokens == 4000 && back->tokens[3999]->n_top == token.n_top);
        msg_arena_deinit(&arena);
    }
    free(tokens);
}

static void test_every_allocation_may_fail(void) {
    Buf b CLEANUP(buf_deinit) = BUF_INIT(1u << 20);
    size_t n = 1;
    int r;

    assert(buf_append(&b, "\x22\xd0\x0f", 3) == 0);
    for (int i = 0; i < 1000; i++)
        assert(buf_append(&b, "\x52\x00", 2) == 0);
    do {
        alloc_fail_after(n++);
        r = unpack(buf_bytes(&b), buf_size(&b), 1u << 20, NULL);
        alloc_fail_after(0);
        assert(r == 0 || r == -ENOMEM);
    } while (r < 0);
    assert(n > 4);
}

static void test_utf8_is_measured_and_made(void) {
    char text[] = "a\x80"
                  "\xc3\xa9\xe2\x82z\xf5";

    assert(msg_utf8_length("", 0) == 0 && msg_utf8_length("abc", 3) == 3);
    assert(msg_utf8_length("a\xe2\x82\xac", 4) == 4 && msg_utf8_length("a\xe2\x82\xac", 3) == 1);
    msg_make_utf8(text);
    assert(strcmp(text, "a?\xc3\xa9??z?") == 0);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(round_trip_keeps_presence),
        TEST(pack_stops_at_the_cap),
        TEST(nothing_is_an_empty_message),
        TEST(malformed_bytes_are_refused_with_their_place),
        TEST(every_prefix_is_decoded_or_refused),
        TEST(lists_of_nothing_exceed_the_budget),
        TEST(dense_but_honest_messages_fit),
        TEST(every_allocation_may_fail),
        TEST(utf8_is_measured_and_made),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
