/* How tokens are chosen: from grokctl's options to a request's values. */
#include "client/command.h"

#include <string.h>

static int parse_bias(const char *text, struct grokd_logit_bias *ret) {
    const char *equals = strchr(text, '=');
    char id[16];
    int r;

    if (!equals || (size_t)(equals - text) >= sizeof(id))
        return ctl_fail(EXIT_USAGE, "--logit-bias takes ID=BIAS, not '%s'", text);
    (void)memcpy(id, text, (size_t)(equals - text));
    id[equals - text] = '\0';
    r = ctl_parse_i32("logit-bias", id, &ret->token);
    return r != 0 ? r : ctl_parse_float("logit-bias", equals + 1, &ret->bias);
}

int ctl_fill_sampling(struct sampling_options *o) {
    struct grokd_sampling *s = &o->values;
    int r = 0;

    s->size = sizeof(*s);
    for (size_t i = 0; i < o->stop_tokens.n && r == 0; i++)
        r = ctl_parse_i32("stop-token", o->stop_tokens.values[i], &o->stop_token_ids[i]);
    for (size_t i = 0; i < o->logit_bias.n && r == 0; i++)
        r = parse_bias(o->logit_bias.values[i], &o->biases[i]);
    s->stop = o->stop.values;
    s->n_stop = o->stop.n;
    s->banned_strings = o->banned.values;
    s->n_banned_strings = o->banned.n;
    s->stop_token_ids = o->stop_token_ids;
    s->n_stop_token_ids = o->stop_tokens.n;
    s->logit_bias = o->biases;
    s->n_logit_bias = o->logit_bias.n;
    return r;
}
