/*
 * Templates: the tree is walked, and what it prints gathered.
 *
 * Variables live in one array. A loop's body sets its own, which are gone with the iteration; those
 * outside of it can be read but not set, but for a namespace's. That is Jinja's rule.
 */
#include "engine/text/jinja-tree.h"

#include "base/alloc.h"
#include "engine/engine.h"

#include <string.h>

enum way {
    WAY_ON,
    WAY_BREAK,
    WAY_CONTINUE,
    WAY_FAILED,
};

/* ---- variables ---- */

/* NULL also where the rendering has failed: see run->r. */
static Value *find_variable(Run *run, Text name, size_t from) {
    if (!run_charge(run, 1 + (run->n_variables - from) * (1 + name.n / 64) / 8))
        return NULL;
    for (size_t i = run->n_variables; i-- > from;)
        if (text_equal(run->variables[i].name, name))
            return &run->variables[i].value;
    return NULL;
}

static bool set_variable(Run *run, Text name, Value value) {
    Value *found = find_variable(run, name, run->scope);

    if (found) {
        *found = value;
        return true;
    }
    if (run->r)
        return false;
    if (run->n_variables == JINJA_VARIABLES_MAX)
        return run_fail(run, "more than %d variables", JINJA_VARIABLES_MAX);
    run->variables[run->n_variables++] = (struct variable){.name = name, .value = value};
    return true;
}

/* ---- output ---- */

static bool print(Run *run, Text text) {
    struct jinja_output *o = &run->out;

    if (text.n > JINJA_OUTPUT_BYTES_MAX - o->n)
        return run_fail(run, "the prompt is longer than %u MiB", JINJA_OUTPUT_BYTES_MAX >> 20);
    if (o->n + text.n + 1 > run->out_capacity) {
        size_t capacity = 2 * run->out_capacity + text.n + 256;
        char *bytes = alloc_resize(o->bytes, capacity);
        uint8_t *marks;

        if (!bytes)
            return run_no_memory(run);
        o->bytes = bytes;
        marks = alloc_resize(o->marks, capacity);
        if (!marks)
            return run_no_memory(run);
        o->marks = marks;
        run->out_capacity = capacity;
    }
    if (text.n > 0) {
        (void)memcpy(o->bytes + o->n, text.bytes, text.n);
        if (text.marks)
            (void)memcpy(o->marks + o->n, text.marks, text.n);
        else
            (void)memset(o->marks + o->n, MARK_TEMPLATE, text.n);
        o->n += text.n;
    }
    o->bytes[o->n] = '\0';
    return run_charge_bytes(run, text.n);
}

void jinja_output_deinit(struct jinja_output *o) {
    free(o->bytes);
    free(o->marks);
    *o = (struct jinja_output){.n = 0};
}

/* ---- expressions ---- */

static bool eval(Run *run, const Node *node, Value *ret);

static bool eval_true(Run *run, const Node *node, bool *ret) {
    Value v;

    if (!eval(run, node, &v))
        return false;
    *ret = value_is_true(&v);
    return true;
}

static bool eval_list(Run *run, const Node *node, Value *ret) {
    size_t n = 0, i = 0;

    for (const Node *item = node->items; item; item = item->next)
        n++;
    if (!list_new(run, n, ret))
        return false;
    for (const Node *item = node->items; item; item = item->next)
        if (!eval(run, item, &ret->list->items[i++]))
            return false;
    return true;
}

static bool eval_map(Run *run, const Node *node, Value *ret) {
    if (!map_new(run, 4, ret))
        return false;
    for (const Node *item = node->items; item; item = item->next->next) {
        Value key, value;

        if (!eval(run, item, &key) || !eval(run, item->next, &value))
            return false;
        if (key.kind != VALUE_TEXT)
            return run_fail(run, "a map's key is %s", value_kind_name(&key));
        if (!map_put(run, ret->map, key.text, value))
            return false;
    }
    return true;
}

static bool eval_slice(Run *run, const Node *node, Value *ret) {
    Value of, bounds[3] = {NONE_VALUE, NONE_VALUE, NONE_VALUE};
    size_t i = 0;

    if (!eval(run, node->left, &of))
        return false;
    for (const Node *item = node->items; item; item = item->next)
        if (!eval(run, item, &bounds[i++]))
            return false;
    return value_slice(run, &of, bounds, ret);
}

/* Filters, tests, methods and functions. */
static bool eval_call(Run *run, const Node *node, Value *ret) {
    struct arguments args = {.n = 0};
    Value of = NONE_VALUE;
    bool holds;

    if (node->left && !eval(run, node->left, &of))
        return false;
    for (const Node *item = node->items; item; item = item->next) {
        if (!eval(run, item, &args.values[args.n]))
            return false;
        args.names[args.n++] = item->name;
        if (item->name.n == 0)
            args.n_positional++;
    }
    switch (node->kind) {
    case NODE_FILTER:
        return call_filter(run, node->value.text, &of, &args, ret);
    case NODE_METHOD:
        return call_method(run, node->value.text, &of, &args, ret);
    case NODE_CALL:
        return call_function(run, node->value.text, &args, ret);
    default:
        if (!call_test(run, node->value.text, &of, &args, &holds))
            return false;
        *ret = BOOL(holds);
        return true;
    }
}

static bool repeat(Run *run, const Value *text, const Value *times, Value *ret) {
    size_t n = times->number > 0 ? (size_t)times->number : 0;
    Text *parts, joined;

    if (n > JINJA_RANGE_MAX)
        return run_fail(run, "a string is repeated more than %d times", JINJA_RANGE_MAX);
    parts = arena_alloc(&run->arena, n + 1, sizeof(*parts));
    if (!parts)
        return run_no_memory(run);
    for (size_t i = 0; i < n; i++)
        parts[i] = text->text;
    if (!text_join(run, parts, n, TEXT(""), &joined))
        return false;
    *ret = TEXT_VALUE(joined);
    return true;
}

/* Rounded down, as Python does. */
static bool divide(Run *run, enum operator op, int64_t a, int64_t b, Value *ret) {
    int64_t quotient, rest;

    if (b == 0)
        return run_fail(run, "a division by 0");
    if (a == INT64_MIN && b == -1)
        return run_fail(run, "a number is too large");
    quotient = a / b;
    rest = a % b;
    if (rest != 0 && (rest < 0) != (b < 0)) {
        quotient--;
        rest += b;
    }
    *ret = NUMBER(op == OP_MODULO ? rest : quotient);
    return true;
}

static bool calculate(Run *run, enum operator op, const Value *a, const Value *b, Value *ret) {
    int64_t result;

    if (op == OP_MULTIPLY && a->kind == VALUE_TEXT && b->kind == VALUE_NUMBER)
        return repeat(run, a, b, ret);
    if ((a->kind != VALUE_NUMBER && a->kind != VALUE_BOOL) ||
        (b->kind != VALUE_NUMBER && b->kind != VALUE_BOOL))
        return run_fail(run, "%s and %s can't be calculated with", value_kind_name(a),
                        value_kind_name(b));
    if (op == OP_DIVIDE_DOWN || op == OP_MODULO)
        return divide(run, op, a->number, b->number, ret);
    if (op == OP_SUBTRACT ? __builtin_sub_overflow(a->number, b->number, &result)
                          : __builtin_mul_overflow(a->number, b->number, &result))
        return run_fail(run, "a number is too large");
    *ret = NUMBER(result);
    return true;
}

static bool concatenate(Run *run, const Value *a, const Value *b, Value *ret) {
    Text parts[2], joined;

    if (!value_to_text(run, a, &parts[0]) || !value_to_text(run, b, &parts[1]) ||
        !text_join(run, parts, 2, TEXT(""), &joined))
        return false;
    *ret = TEXT_VALUE(joined);
    return true;
}

static bool compare(Run *run, enum operator op, const Value *a, const Value *b, Value *ret) {
    bool holds;
    int order;

    if (op == OP_IN || op == OP_NOT_IN) {
        if (!value_in(run, a, b, &holds))
            return false;
        *ret = BOOL(holds == (op == OP_IN));
        return true;
    }
    if (op == OP_EQUAL || op == OP_UNEQUAL) {
        if (!value_equal(run, a, b, 0, &holds))
            return false;
        *ret = BOOL(holds == (op == OP_EQUAL));
        return true;
    }
    if (!value_compare(run, a, b, &order))
        return false;
    *ret = BOOL(op == OP_LESS         ? order < 0
                : op == OP_LESS_EQUAL ? order <= 0
                : op == OP_GREATER    ? order > 0
                                      : order >= 0);
    return true;
}

static bool eval_binary(Run *run, const Node *node, Value *ret) {
    Value a, b;

    if (!eval(run, node->left, &a) || !eval(run, node->right, &b))
        return false;
    if (node->op == OP_ADD)
        return value_add(run, &a, &b, ret);
    if (node->op == OP_CONCATENATE)
        return concatenate(run, &a, &b, ret);
    return node->op >= OP_EQUAL ? compare(run, node->op, &a, &b, ret)
                                : calculate(run, node->op, &a, &b, ret);
}

/* and, or: the operand that decides, as in Python. */
static bool eval_logic(Run *run, const Node *node, Value *ret) {
    if (!eval(run, node->left, ret))
        return false;
    if (value_is_true(ret) == (node->kind == NODE_OR))
        return true;
    return eval(run, node->right, ret);
}

static bool eval_choice(Run *run, const Node *node, Value *ret) {
    bool holds = true;

    if (node->condition && !eval_true(run, node->condition, &holds))
        return false;
    if (holds)
        return eval(run, node->left, ret);
    *ret = UNDEFINED(TEXT("a choice without else"));
    return !node->right || eval(run, node->right, ret);
}

static bool eval_name(Run *run, const Node *node, Value *ret) {
    const Value *found = find_variable(run, node->name, 0);

    *ret = found                     ? *found
           : is_function(node->name) ? (Value){.kind = VALUE_FUNCTION}
                                     : UNDEFINED(node->name);
    return run->r == 0;
}

static bool eval_item(Run *run, const Node *node, Value *ret) {
    Value of, key;

    return eval(run, node->left, &of) && eval(run, node->right, &key) &&
           value_get(run, &of, &key, ret);
}

static bool eval_negate(Run *run, const Node *node, Value *ret) {
    const Value zero = NUMBER(0);
    Value v;

    return eval(run, node->left, &v) && calculate(run, OP_SUBTRACT, &zero, &v, ret);
}

// NOLINTNEXTLINE(misc-no-recursion): as deep as the tree, JINJA_DEPTH_MAX
static bool eval(Run *run, const Node *node, Value *ret) {
    bool holds;

    if (!run_charge(run, 1))
        return false;
    switch (node->kind) {
    case NODE_LITERAL:
        *ret = node->value;
        return true;
    case NODE_NAME:
        return eval_name(run, node, ret);
    case NODE_LIST:
        return eval_list(run, node, ret);
    case NODE_MAP:
        return eval_map(run, node, ret);
    case NODE_ITEM:
        return eval_item(run, node, ret);
    case NODE_SLICE:
        return eval_slice(run, node, ret);
    case NODE_NOT:
        if (!eval_true(run, node->left, &holds))
            return false;
        *ret = BOOL(!holds);
        return true;
    case NODE_NEGATE:
        return eval_negate(run, node, ret);
    case NODE_AND:
    case NODE_OR:
        return eval_logic(run, node, ret);
    case NODE_BINARY:
        return eval_binary(run, node, ret);
    case NODE_CHOICE:
        return eval_choice(run, node, ret);
    default:
        return eval_call(run, node, ret);
    }
}

/* ---- statements ---- */

static enum way run_body(Run *run, const Node *first);

static bool assign(Run *run, const Node *target, Value value) {
    const Value *found;

    if (target->kind == NODE_NAME)
        return set_variable(run, target->name, value);
    found = find_variable(run, target->left->name, 0);
    if (run->r)
        return false;
    if (!found || found->kind != VALUE_MAP || !found->map->is_namespace)
        return run_fail(run, "'%.*s' is no namespace: its values can't be set",
                        (int)MIN(target->left->name.n, (size_t)64), target->left->name.bytes);
    return map_put(run, found->map, target->right->value.text, value);
}

/* To one target the value itself, to several a part each. */
static bool assign_all(Run *run, const Node *targets, const Value *value) {
    struct list items;
    size_t n = 0, i = 0;

    for (const Node *target = targets; target; target = target->next)
        n++;
    if (n == 1)
        return assign(run, targets, *value);
    if (!value_items(run, value, &items))
        return false;
    if (items.n != n)
        return run_fail(run, "%zu values are set to %zu variables", items.n, n);
    for (const Node *target = targets; target; target = target->next)
        if (!assign(run, target, items.items[i++]))
            return false;
    return true;
}

/* The items that the loop's condition lets through. */
static bool choose_items(Run *run, const Node *node, struct list *items) {
    size_t n = run->n_variables, scope = run->scope;
    Value chosen;

    if (!node->condition)
        return true;
    if (!list_new(run, items->n, &chosen))
        return false;
    chosen.list->n = 0;
    run->scope = n;
    for (size_t i = 0; i < items->n; i++) {
        bool holds;

        run->n_variables = n;
        if (!assign_all(run, node->targets, &items->items[i]) ||
            !eval_true(run, node->condition, &holds))
            return false;
        if (holds)
            chosen.list->items[chosen.list->n++] = items->items[i];
    }
    run->n_variables = n;
    run->scope = scope;
    *items = *chosen.list;
    return true;
}

static enum way run_loop(Run *run, const Node *node, const struct list *items) {
    size_t n = run->n_variables, scope = run->scope;
    struct loop *loop = arena_new(&run->arena, struct loop);
    enum way way = WAY_ON;

    if (!loop) {
        (void)run_no_memory(run);
        return WAY_FAILED;
    }
    *loop = (struct loop){.items = items->items, .n = items->n};
    run->scope = n;
    for (; way != WAY_BREAK && loop->at < items->n; loop->at++) {
        run->n_variables = n;
        if (!run_charge(run, 1) ||
            !set_variable(run, TEXT("loop"), (Value){.kind = VALUE_LOOP, .loop = loop}) ||
            !assign_all(run, node->targets, &items->items[loop->at]))
            return WAY_FAILED;
        way = run_body(run, node->items);
        if (way == WAY_FAILED)
            return way;
    }
    run->n_variables = n;
    run->scope = scope;
    return WAY_ON;
}

static enum way run_for(Run *run, const Node *node) {
    struct list items;
    Value v;

    if (!eval(run, node->left, &v) || !value_items(run, &v, &items) ||
        !choose_items(run, node, &items))
        return WAY_FAILED;
    return items.n > 0 ? run_loop(run, node, &items) : run_body(run, node->right);
}

static bool run_set(Run *run, const Node *node) {
    size_t begin = run->out.n;
    Text printed, copy;
    uint8_t *marks;
    char *bytes;
    Value v;

    if (node->left)
        return eval(run, node->left, &v) && assign_all(run, node->targets, &v);
    if (run_body(run, node->items) != WAY_ON)
        return run->r || run_fail(run, "a loop is left from inside of a set block");
    printed = (Text){
        .bytes = run->out.bytes + begin, .marks = run->out.marks + begin, .n = run->out.n - begin};
    if (!text_new(run, printed.n, true, &copy, &bytes, &marks))
        return false;
    if (printed.n > 0) {
        (void)memcpy(bytes, printed.bytes, printed.n);
        (void)memcpy(marks, printed.marks, printed.n);
    }
    run->out.n = begin;
    v = TEXT_VALUE(copy);
    return assign_all(run, node->targets, &v);
}

static enum way run_if(Run *run, const Node *node) {
    bool holds;

    if (!eval_true(run, node->condition, &holds))
        return WAY_FAILED;
    return run_body(run, holds ? node->items : node->right);
}

static bool run_print(Run *run, const Node *node) {
    Text text;
    Value v;

    return eval(run, node->left, &v) && value_to_text(run, &v, &text) && print(run, text);
}

// NOLINTNEXTLINE(misc-no-recursion): as deep as the tree, JINJA_DEPTH_MAX
static enum way run_statement(Run *run, const Node *node) {
    run->line = node->line;
    if (!run_charge(run, 1))
        return WAY_FAILED;
    switch (node->kind) {
    case NODE_TEXT:
        return print(run, node->value.text) ? WAY_ON : WAY_FAILED;
    case NODE_PRINT:
        return run_print(run, node) ? WAY_ON : WAY_FAILED;
    case NODE_SET:
        return run_set(run, node) ? WAY_ON : WAY_FAILED;
    case NODE_FOR:
        return run_for(run, node);
    case NODE_IF:
        return run_if(run, node);
    case NODE_BREAK:
        return WAY_BREAK;
    default:
        return WAY_CONTINUE;
    }
}

// NOLINTNEXTLINE(misc-no-recursion): as deep as the tree, JINJA_DEPTH_MAX
static enum way run_body(Run *run, const Node *first) {
    enum way way = WAY_ON;

    for (const Node *node = first; way == WAY_ON && node; node = node->next)
        way = run_statement(run, node);
    return way;
}

/* ---- a rendering ---- */

static bool marked(Run *run, const char *text, enum text_mark mark, Value *ret) {
    size_t n = strlen(text);
    uint8_t *marks = NULL;

    if (mark != MARK_TEMPLATE) {
        marks = arena_alloc(&run->arena, n + 1, 1);
        if (!marks)
            return run_no_memory(run);
        (void)memset(marks, (int)mark, n);
    }
    *ret = TEXT_VALUE(((Text){.bytes = text, .marks = marks, .n = n}));
    return true;
}

static bool add_message(Run *run, const struct gk_message *m, Value *ret) {
    bool is_answer = strcmp(m->role, "assistant") == 0;
    Value role, content;

    return map_new(run, 2, ret) && marked(run, m->role, MARK_TEMPLATE, &role) &&
           marked(run, m->content, is_answer ? MARK_ANSWER : MARK_CONTENT, &content) &&
           map_put(run, ret->map, TEXT("role"), role) &&
           map_put(run, ret->map, TEXT("content"), content);
}

static bool set_globals(Run *run, const struct jinja_input *in) {
    Value messages, bos, eos;

    if (!list_new(run, in->n_messages, &messages))
        return false;
    for (size_t i = 0; i < in->n_messages; i++)
        if (!add_message(run, &in->messages[i], &messages.list->items[i]))
            return false;
    return marked(run, in->bos, MARK_TEMPLATE, &bos) && marked(run, in->eos, MARK_TEMPLATE, &eos) &&
           set_variable(run, TEXT("messages"), messages) &&
           set_variable(run, TEXT("bos_token"), bos) && set_variable(run, TEXT("eos_token"), eos) &&
           set_variable(run, TEXT("add_generation_prompt"), BOOL(in->add_generation_prompt));
}

int template_render(const Template *t, const struct jinja_input *input, struct jinja_output *ret,
                    Error *reterr) {
    Run *run = alloc_new(Run);
    int r;

    if (!run)
        return error_set(reterr, -ENOMEM, "out of memory");
    run->arena = ARENA_INIT(JINJA_MEMORY_BYTES_MAX);
    run->reterr = reterr;
    if (set_globals(run, input) && print(run, TEXT("")))
        (void)run_body(run, t->body);
    r = run->r;
    if (r)
        jinja_output_deinit(&run->out);
    else
        *ret = run->out;
    arena_deinit(&run->arena);
    free(run);
    return r;
}
