/*
 * See network.h.
 *
 * Nodes are made from the back: each part is told the node that follows it, so a call in last place
 * has END for its successor and needs no return, and `tail ::= x tail` runs in constant memory.
 *
 * What would make following the network endless is refused here: a rule that can call itself before
 * it has read a byte. What could never end is marked: each node knows how many calls within calls
 * its nearest way to END takes, so that no way is taken that the maximum depth would cut off.
 */
#include "engine/grammar/network.h"

#include "base/alloc.h"
#include "base/utf8.h"
#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

#define SET_SLOTS        (4 * NETWORK_SETS_MAX)
#define SUFFIXES_TRIED   16 /* nodes looked back at for an equal one in a character set */
#define INLINE_NODES_MAX 4u /* a larger body that is repeated becomes a rule */
#define NO_RULE          UINT32_MAX
#define NO_NODE          UINT32_MAX

struct compiler {
    Network *w;
    const Exprs *x;
    uint32_t *rule_of; /* (x->n) rules made of expressions; NO_RULE: none */
    uint32_t *slots;   /* (SET_SLOTS) sets by their hash, + 1 */
    uint32_t nodes_capacity, rules_capacity, sets_capacity;
    struct {
        Expr body;
        uint32_t rule;
    } * later; /* rules whose bodies are still to be made */
    uint32_t n_later, later_capacity;
    int result;
    Error *reterr;
};

#define refuse(c, ...)                                                                             \
    ((c)->result == 0 ? ((c)->result = error_set((c)->reterr, GK_E_INVALID, __VA_ARGS__)) : 0)

/* Room for one more. */
static bool grow(struct compiler *c, void *array, uint32_t *capacity, uint32_t n, size_t size) {
    void *p;

    if (c->result != 0)
        return false;
    if (n < *capacity)
        return true;
    (void)memcpy(&p, array, sizeof(p));
    p = alloc_resize(p, (2 * (size_t)n + 64) * size);
    if (!p) {
        c->result = error_set(c->reterr, -ENOMEM, "out of memory");
        return false;
    }
    (void)memcpy(array, &p, sizeof(p));
    *capacity = 2 * n + 64;
    return true;
}

/* ---- nodes ---- */

static uint32_t add_node(struct compiler *c, enum node_type type, uint32_t a, uint32_t out) {
    Network *w = c->w;

    if (w->n_nodes == NETWORK_NODES_MAX)
        (void)refuse(c, "the constraint needs more than %u states", NETWORK_NODES_MAX);
    if (!grow(c, &w->nodes, &c->nodes_capacity, w->n_nodes, sizeof(*w->nodes)))
        return 0;
    w->nodes[w->n_nodes] = (struct node){.type = type, .a = a, .out = out};
    return w->n_nodes++;
}

static uint32_t find_set(struct compiler *c, const struct byte_set *set) {
    Network *w = c->w;
    uint64_t hash = 0;
    uint32_t i;

    for (size_t k = 0; k < ARRAY_SIZE(set->bits); k++)
        hash = (hash ^ set->bits[k]) * 0x9e3779b97f4a7c15u ^ hash >> 29;
    for (i = (uint32_t)(hash >> 40) % SET_SLOTS; c->slots[i] != 0; i = (i + 1) % SET_SLOTS)
        if (memcmp(&w->sets[c->slots[i] - 1], set, sizeof(*set)) == 0)
            return c->slots[i] - 1;
    if (w->n_sets == NETWORK_SETS_MAX)
        (void)refuse(c, "the constraint has more than %u different sets of bytes",
                     NETWORK_SETS_MAX);
    if (!grow(c, &w->sets, &c->sets_capacity, w->n_sets, sizeof(*w->sets)))
        return 0;
    w->sets[w->n_sets] = *set;
    c->slots[i] = ++w->n_sets;
    return w->n_sets - 1;
}

static void set_add(struct byte_set *set, unsigned low, unsigned high) {
    for (unsigned i = low; i <= high; i++)
        set->bits[i / 64] |= 1ull << (i % 64);
}

static uint32_t add_bytes(struct compiler *c, unsigned low, unsigned high, uint32_t out) {
    struct byte_set set = {{0}};

    set_add(&set, low, high);
    return add_node(c, NODE_BYTES, find_set(c, &set), out);
}

static uint32_t add_rule(struct compiler *c) {
    Network *w = c->w;

    if (!grow(c, &w->rules, &c->rules_capacity, w->n_rules, sizeof(*w->rules)))
        return 0;
    w->rules[w->n_rules] = 0;
    return w->n_rules++;
}

/* ---- characters: code points as UTF-8 ---- */

static size_t encode(uint32_t code, uint8_t bytes[4]) {
    size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;

    for (size_t i = n; i-- > 1; code >>= 6)
        bytes[i] = (uint8_t)(0x80 | (code & 0x3f));
    bytes[0] = (uint8_t)(n == 1 ? code : (0xf00u >> n & 0xffu) | code);
    return n;
}

/* Both ends have n bytes, and every byte's range is independent of the others. */
static uint32_t add_sequence(struct compiler *c, uint32_t low, uint32_t high, uint32_t first_node) {
    uint8_t from[4], to[4];
    size_t n = encode(low, from);
    uint32_t node = 0;

    (void)encode(high, to);
    for (size_t i = n; i-- > 0;) {
        uint32_t made = add_bytes(c, from[i], to[i], node);
        const struct node *nodes = c->w->nodes;

        if (c->result != 0)
            return 0;
        for (uint32_t k = made; k-- > first_node && made - k <= SUFFIXES_TRIED;)
            if (nodes[k].type == NODE_BYTES && nodes[k].a == nodes[made].a &&
                nodes[k].out == node) {
                c->w->n_nodes--;
                made = k;
                break;
            }
        node = made;
    }
    return node;
}

static uint32_t add_split(struct compiler *c, uint32_t a, uint32_t b) {
    return a == NO_NODE ? b : b == NO_NODE ? a : add_node(c, NODE_SPLIT, a, b);
}

/* [low, high], not ASCII, cut until the ends differ in nothing but full ranges of their bytes. */
static uint32_t add_characters(struct compiler *c, uint32_t low, uint32_t high, uint32_t first) {
    static const uint32_t ends[] = {0x7ff, 0xffff};

    for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
        if (low <= ends[i] && high > ends[i])
            return add_split(c, add_characters(c, low, ends[i], first),
                             add_characters(c, ends[i] + 1, high, first));
    for (unsigned shift = 6; shift <= 18; shift += 6) {
        uint32_t mask = (1u << shift) - 1;

        if (low >> shift == high >> shift)
            break;
        if ((low & mask) != 0)
            return add_split(c, add_characters(c, low, low | mask, first),
                             add_characters(c, (low | mask) + 1, high, first));
        if ((high & mask) != mask)
            return add_split(c, add_characters(c, low, (high & ~mask) - 1, first),
                             add_characters(c, high & ~mask, high, first));
    }
    return add_sequence(c, low, high, first);
}

static uint32_t chars_start(struct compiler *c, const struct expr *e) {
    struct byte_set ascii = {{0}};
    uint32_t first = c->w->n_nodes, start = NO_NODE;
    bool has_ascii = false;

    for (uint32_t i = 0; i < e->b && c->result == 0; i++) {
        struct char_range r = c->x->ranges[e->a + i];

        if (r.low < 0x80) {
            set_add(&ascii, r.low, MIN(r.high, 0x7fu));
            has_ascii = true;
            r.low = 0x80;
        }
        if (r.low <= r.high)
            start = add_split(c, add_characters(c, r.low, r.high, first), start);
    }
    if (has_ascii)
        start = add_split(c, add_node(c, NODE_BYTES, find_set(c, &ascii), 0), start);
    return start;
}

/* ---- expressions ---- */

static uint32_t rule_of(struct compiler *c, Expr e) {
    if (c->rule_of[e] != NO_RULE)
        return c->rule_of[e];
    c->rule_of[e] = add_rule(c);
    if (grow(c, &c->later, &c->later_capacity, c->n_later, sizeof(*c->later))) {
        c->later[c->n_later].body = e;
        c->later[c->n_later++].rule = c->rule_of[e];
    }
    return c->rule_of[e];
}

static uint32_t compile(struct compiler *c, Expr e, uint32_t next);

static uint32_t compile_text(struct compiler *c, const struct expr *e, uint32_t next) {
    for (uint32_t i = e->b; i-- > 0;)
        next = add_bytes(c, c->x->bytes[e->a + i], c->x->bytes[e->a + i], next);
    return next;
}

static uint32_t compile_chars(struct compiler *c, Expr i, uint32_t next) {
    const struct expr *e = &c->x->exprs[i];
    struct byte_set set = {{0}};

    if (e->b == 0)
        return add_node(c, NODE_BYTES, find_set(c, &set), next);
    if (c->x->ranges[e->a + e->b - 1].high >= 0x80)
        return add_node(c, NODE_CALL, rule_of(c, i), next);
    for (uint32_t k = 0; k < e->b; k++)
        set_add(&set, c->x->ranges[e->a + k].low, c->x->ranges[e->a + k].high);
    return add_node(c, NODE_BYTES, find_set(c, &set), next);
}

static bool is_small(const struct expr *e) {
    return e->type == EXPR_CHARS || e->type == EXPR_CALL ||
           (e->type == EXPR_TEXT && e->b <= INLINE_NODES_MAX);
}

static uint32_t compile_copy(struct compiler *c, Expr body, bool inlined, uint32_t next) {
    return inlined ? compile(c, body, next) : add_node(c, NODE_CALL, rule_of(c, body), next);
}

static uint32_t compile_repeat(struct compiler *c, const struct expr *e, uint32_t next) {
    bool inlined = is_small(&c->x->exprs[e->a]) || (e->b <= 1 && e->c <= 1);
    uint32_t start = next;

    if (e->c == EXPR_UNLIMITED) {
        uint32_t loop = add_node(c, NODE_SPLIT, next, 0), body;

        inlined |= e->b == 0;
        body = compile_copy(c, e->a, inlined, loop);
        if (c->result != 0)
            return 0;
        c->w->nodes[loop].out = body;
        start = loop;
    }
    for (uint32_t i = e->b; e->c != EXPR_UNLIMITED && i < e->c && c->result == 0; i++)
        start = add_node(c, NODE_SPLIT, next, compile_copy(c, e->a, inlined, start));
    for (uint32_t i = 0; i < e->b && c->result == 0; i++)
        start = compile_copy(c, e->a, inlined, start);
    return start;
}

/* Chains of SEQ and ALT lean to the left and are walked; recursion goes into what is right. */
static uint32_t compile(struct compiler *c, Expr i, uint32_t next) {
    uint32_t alternatives = NO_NODE;
    const struct expr *e;

    for (e = &c->x->exprs[i]; c->result == 0; e = &c->x->exprs[i]) {
        if (e->type == EXPR_SEQ && alternatives == NO_NODE)
            next = compile(c, e->b, next);
        else if (e->type == EXPR_ALT)
            alternatives = add_split(c, compile(c, e->b, next), alternatives);
        else
            break;
        i = e->a;
    }
    if (c->result != 0)
        return 0;
    switch (e->type) {
    case EXPR_TEXT:
        next = compile_text(c, e, next);
        break;
    case EXPR_CHARS:
        next = compile_chars(c, i, next);
        break;
    case EXPR_REPEAT:
        next = compile_repeat(c, e, next);
        break;
    case EXPR_CALL:
        next = add_node(c, NODE_CALL, e->a, next);
        break;
    default: /* a sequence that begins a list of alternatives */
        next = compile(c, i, next);
        break;
    }
    return add_split(c, next, alternatives);
}

static void compile_rules(struct compiler *c) {
    const Exprs *x = c->x;

    for (uint32_t i = 0; i < x->n_rules; i++)
        (void)add_rule(c); /* the same numbers */
    (void)add_node(c, NODE_END, 0, 0);
    for (uint32_t i = 0; i < x->n_rules && c->result == 0; i++) {
        uint32_t start = compile(c, x->rules[i].body, 0);

        if (c->result == 0)
            c->w->rules[i] = start; /* compiling moves the array */
    }
    while (c->n_later > 0 && c->result == 0) {
        Expr body = c->later[--c->n_later].body;
        uint32_t rule = c->later[c->n_later].rule, start;

        start = x->exprs[body].type == EXPR_CHARS ? chars_start(c, &x->exprs[body])
                                                  : compile(c, body, 0);
        if (c->result == 0)
            c->w->rules[rule] = start;
    }
}

/* ---- bytes that are always treated alike ---- */

static void make_classes(Network *w) {
    w->n_classes = 1;
    for (uint32_t i = 0; i < w->n_sets; i++) {
        int16_t inside[256];

        (void)memset(inside, -1, sizeof(inside));
        for (unsigned b = 0; b < 256; b++) {
            bool is_in = network_takes(w, i, (uint8_t)b);
            unsigned class = w->classes[b];

            /* A class whose example is on the other side is cut in two. */
            if (is_in == network_takes(w, i, w->examples[class]))
                continue;
            if (inside[class] < 0) {
                inside[class] = (int16_t)w->n_classes;
                w->examples[w->n_classes++] = (uint8_t)b;
            }
            w->classes[b] = (uint8_t)inside[class];
        }
    }
}

/* ---- what is in front of what ---- */

/* Lists of the nodes that lead to each node, and of the calls of each rule. */
struct links {
    uint32_t *first_before, *before, *first_call, *calls;
};

static void links_deinit(struct links *l) {
    free(l->first_before);
    free(l->before);
    free(l->first_call);
    free(l->calls);
}

static bool can_take(const Network *w, const struct node *n) {
    static const struct byte_set none;

    return n->type != NODE_BYTES || memcmp(&w->sets[n->a], &none, sizeof(none)) != 0;
}

static int links_init(struct links *l, const Network *w) {
    l->first_before = alloc_array((size_t)w->n_nodes + 2, sizeof(uint32_t));
    l->before = alloc_array(2 * (size_t)w->n_nodes, sizeof(uint32_t));
    l->first_call = alloc_array((size_t)w->n_rules + 2, sizeof(uint32_t));
    l->calls = alloc_array((size_t)w->n_nodes, sizeof(uint32_t));
    if (!l->first_before || !l->before || !l->first_call || !l->calls)
        return error_origin(-ENOMEM);
    for (uint32_t i = 1; i < w->n_nodes; i++) {
        l->first_before[w->nodes[i].out + 2]++;
        if (w->nodes[i].type == NODE_SPLIT)
            l->first_before[w->nodes[i].a + 2]++;
        if (w->nodes[i].type == NODE_CALL)
            l->first_call[w->nodes[i].a + 2]++;
    }
    for (uint32_t i = 2; i < w->n_nodes + 2; i++)
        l->first_before[i] += l->first_before[i - 1];
    for (uint32_t i = 2; i < w->n_rules + 2; i++)
        l->first_call[i] += l->first_call[i - 1];
    for (uint32_t i = 1; i < w->n_nodes; i++) {
        l->before[l->first_before[w->nodes[i].out + 1]++] = i;
        if (w->nodes[i].type == NODE_SPLIT)
            l->before[l->first_before[w->nodes[i].a + 1]++] = i;
        if (w->nodes[i].type == NODE_CALL)
            l->calls[l->first_call[w->nodes[i].a + 1]++] = i;
    }
    return 0;
}

/* ---- how far END is ---- */

/* The nodes of one height, and those of the next. */
struct waves {
    uint32_t *now, *next;
    uint32_t n_now, n_next;
};

struct measure {
    const Network *w;
    const struct links *links;
    const uint32_t *rule_at; /* (n_nodes) a rule that starts here, + 1; others in `rule_next` */
    const uint32_t *rule_next;
    uint16_t *heights;
    bool with_bytes; /* else only ways that read nothing count */
    struct waves waves;
};

static uint16_t rule_height(const struct measure *m, uint32_t rule) {
    return m->heights[m->w->rules[rule]];
}

/* What a call adds to the stack: nothing in last place, as matching goes. */
static uint32_t frames(const struct node *call) {
    return call->out != 0;
}

static void reach(struct measure *m, uint32_t node, uint32_t height, uint32_t level) {
    if (m->heights[node] != NODE_HOPELESS)
        return;
    /* In the second wave it may be reached again in this one: it is marked when its turn comes. */
    if (height > level) {
        m->waves.next[m->waves.n_next++] = node;
        return;
    }
    m->heights[node] = (uint16_t)height;
    m->waves.now[m->waves.n_now++] = node;
}

static void reach_from(struct measure *m, uint32_t node, uint32_t level) {
    const struct links *l = m->links;

    for (uint32_t i = l->first_before[node]; i < l->first_before[node + 1]; i++) {
        uint32_t before = l->before[i];
        const struct node *b = &m->w->nodes[before];

        if (b->type == NODE_BYTES && (!m->with_bytes || !can_take(m->w, b)))
            continue;
        if (b->type != NODE_CALL)
            reach(m, before, level, level);
        else if (rule_height(m, b->a) != NODE_HOPELESS)
            reach(m, before, MAX(level, rule_height(m, b->a) + frames(b)), level);
    }
    for (uint32_t rule = m->rule_at[node]; rule != 0; rule = m->rule_next[rule - 1])
        for (uint32_t i = l->first_call[rule - 1]; i < l->first_call[rule]; i++) {
            uint32_t call = l->calls[i];

            if (m->heights[m->w->nodes[call].out] != NODE_HOPELESS)
                reach(m, call, level + frames(&m->w->nodes[call]), level);
        }
}

/* Each node is looked at once; a call is put off to the next level at most twice. */
static void measure(struct measure *m) {
    struct waves *v = &m->waves;

    for (uint32_t i = 0; i < m->w->n_nodes; i++)
        m->heights[i] = NODE_HOPELESS;
    v->n_now = v->n_next = 0;
    reach(m, 0, 0, 0);
    for (uint32_t level = 0; level <= NETWORK_DEPTH_MAX; level++) {
        uint32_t *now = v->now;

        for (uint32_t i = 0; i < v->n_now; i++)
            reach_from(m, v->now[i], level);
        v->now = v->next;
        v->next = now;
        v->n_now = 0;
        for (uint32_t i = 0, n = v->n_next; i < n; i++) {
            uint32_t node = v->now[i];

            if (m->heights[node] != NODE_HOPELESS)
                continue;
            m->heights[node] = (uint16_t)(level + 1);
            v->now[v->n_now++] = node;
        }
        v->n_next = 0;
    }
}

/* ---- rules that call themselves first ---- */

struct descent {
    const Network *w;
    const uint16_t *empty; /* heights without bytes: != NODE_HOPELESS where nothing need be read */
    uint32_t *stack;       /* (2 * n_nodes) nodes to look at; the rules under way are between */
    uint8_t *colours;      /* (n_rules) */
    uint8_t *seen;         /* (n_nodes) */
};

enum { WHITE, GREY, BLACK };

/* Follows what a rule can do before it reads a byte, depth first over the rules; the mark behind a
 * rule's nodes closes it. Returns a rule that comes back to itself, or NO_RULE. */
static uint32_t find_left_recursion(struct descent *d, uint32_t root) {
    const uint32_t mark = 1u << 31;
    size_t n = 0;

    d->colours[root] = GREY;
    d->stack[n++] = mark | root;
    d->stack[n++] = d->w->rules[root];
    while (n > 0) {
        uint32_t at = d->stack[--n];
        const struct node *node;

        if (at & mark) {
            d->colours[at & ~mark] = BLACK;
            continue;
        }
        node = &d->w->nodes[at];
        if (d->seen[at])
            continue;
        d->seen[at] = 1;
        if (node->type == NODE_SPLIT) {
            d->stack[n++] = node->a;
            d->stack[n++] = node->out;
        } else if (node->type == NODE_CALL) {
            if (d->colours[node->a] == GREY)
                return node->a;
            if (d->empty[d->w->rules[node->a]] != NODE_HOPELESS)
                d->stack[n++] = node->out;
            if (d->colours[node->a] == WHITE) {
                d->colours[node->a] = GREY;
                d->stack[n++] = mark | node->a;
                d->stack[n++] = d->w->rules[node->a];
            }
        }
    }
    return NO_RULE;
}

static int check_left_recursion(const Network *w, const Exprs *x, const uint16_t *empty,
                                Error *reterr) {
    struct descent d = {.w = w, .empty = empty};
    uint32_t found = NO_RULE;
    char name[96];
    int r = 0;

    d.stack = alloc_array(3 * (size_t)w->n_nodes + 2 * (size_t)w->n_rules + 8, sizeof(uint32_t));
    d.colours = alloc_array(w->n_rules, 1);
    d.seen = alloc_array(w->n_nodes, 1);
    if (!d.stack || !d.colours || !d.seen)
        r = error_set(reterr, -ENOMEM, "out of memory");
    for (uint32_t i = 0; r == 0 && found == NO_RULE && i < w->n_rules; i++)
        if (d.colours[i] == WHITE)
            found = find_left_recursion(&d, i);
    if (found != NO_RULE && found < x->n_rules && x->rules[found].n_name > 0)
        r = error_set(
            reterr, GK_E_INVALID, "left recursion: '%s' begins with itself",
            utf8_printable(name, sizeof(name), x->rules[found].name, x->rules[found].n_name));
    else if (found != NO_RULE)
        r = error_set(reterr, GK_E_INVALID, "left recursion: a part begins with itself");
    free(d.stack);
    free(d.colours);
    free(d.seen);
    return r;
}

/* ---- all together ---- */

static int analyse(Network *w, const Exprs *x, Error *reterr) {
    uint32_t *rule_at = alloc_array(w->n_nodes, sizeof(*rule_at));
    uint32_t *rule_next = alloc_array(w->n_rules, sizeof(*rule_next));
    uint32_t *now = alloc_array(3 * (size_t)w->n_nodes, sizeof(*now));
    uint32_t *next = alloc_array(3 * (size_t)w->n_nodes, sizeof(*next));
    struct links links = {.before = NULL};
    struct measure m = {.w = w, .links = &links, .rule_at = rule_at, .rule_next = rule_next};
    int r = links_init(&links, w);

    w->heights = alloc_array(w->n_nodes, sizeof(*w->heights));
    if (!rule_at || !rule_next || !now || !next || !w->heights || r != 0) {
        r = error_set(reterr, -ENOMEM, "out of memory");
    } else {
        for (uint32_t i = 0; i < w->n_rules; i++) {
            rule_next[i] = rule_at[w->rules[i]];
            rule_at[w->rules[i]] = i + 1;
        }
        m.heights = w->heights;
        m.waves = (struct waves){.now = now, .next = next};
        measure(&m);
        r = check_left_recursion(w, x, w->heights, reterr);
        m.with_bytes = true;
        measure(&m);
        if (r == 0 && w->heights[w->rules[w->root]] == NODE_HOPELESS)
            r = error_set(reterr, GK_E_INVALID, "no text satisfies the constraint");
    }
    links_deinit(&links);
    free(rule_at);
    free(rule_next);
    free(now);
    free(next);
    return r;
}

int network_init(Network *w, const Exprs *x, uint32_t root, Error *reterr) {
    struct compiler c = {.w = w, .x = x, .reterr = reterr};

    *w = (Network){.root = root};
    c.rule_of = alloc_array(x->n, sizeof(*c.rule_of));
    c.slots = alloc_array(SET_SLOTS, sizeof(*c.slots));
    if (c.rule_of && c.slots) {
        (void)memset(c.rule_of, 0xff, x->n * sizeof(*c.rule_of));
        compile_rules(&c);
    } else {
        c.result = error_set(reterr, -ENOMEM, "out of memory");
    }
    free(c.rule_of);
    free(c.slots);
    free(c.later);
    if (c.result != 0)
        return c.result;
    make_classes(w);
    return analyse(w, x, reterr);
}

void network_deinit(Network *w) {
    free(w->nodes);
    free(w->heights);
    free(w->rules);
    free(w->sets);
    *w = (Network){.n_nodes = 0};
}
