/*
 * Templates: tokens → tree, by recursive descent. Every function that reads a piece of the grammar
 * returns NULL where it failed; the parser then has the sentence. The tree's depth is bounded, so
 * that walking it is, too.
 */
#include "engine/text/jinja-tree.h"

#include "base/alloc.h"
#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

typedef struct Parser {
    Template *t;
    const struct token *token; /* the next one */
    unsigned depth;
    bool in_loop;
    int r;
    Error *reterr;
} Parser;

/* ---- helpers ---- */

static void *parse_fail(Parser *p, const char *format, ...) PRINTF_FORMAT(2, 3);
static void *parse_fail(Parser *p, const char *format, ...) {
    char text[ERROR_TEXT_MAX / 2];
    va_list args;

    if (p->r)
        return NULL;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    p->r = error_set(p->reterr, GK_E_INVALID, "chat template, line %u: %s", p->token->line, text);
    return NULL;
}

/* What stands where something else was expected. */
static void *unexpected(Parser *p, const char *expected) {
    const struct token *token = p->token;

    switch (token->kind) {
    case TOKEN_END:
        return parse_fail(p, "%s is expected, and the template ends", expected);
    case TOKEN_NAME:
    case TOKEN_OPERATOR:
        return parse_fail(p, "%s is expected, not '%.*s'", expected,
                          (int)MIN(token->text.n, (size_t)64), token->text.bytes);
    default:
        return parse_fail(p, "%s is expected, not %s", expected,
                          token->kind == TOKEN_STRING      ? "a string"
                          : token->kind == TOKEN_NUMBER    ? "a number"
                          : token->kind == TOKEN_PRINT_END ? "the end of {{ }}"
                          : token->kind == TOKEN_TAG_END   ? "the tag's end"
                                                           : "text");
    }
}

static Node *new_node(Parser *p, enum node_kind kind) {
    Node *node = arena_new(&p->t->arena, Node);

    if (!node) {
        p->r = error_set(p->reterr, -ENOMEM, "out of memory");
        return NULL;
    }
    node->kind = kind;
    node->line = p->token->line;
    node->depth = 1;
    return node;
}

/* Counts a child's depth; gives the node, or NULL where it is too deep. */
static Node *above(Parser *p, Node *node, const Node *child) {
    if (!node || !child)
        return NULL;
    node->depth = MAX(node->depth, child->depth + 1);
    if (node->depth > JINJA_DEPTH_MAX)
        return parse_fail(p, "more than %d levels are nested", JINJA_DEPTH_MAX);
    return node;
}

static bool enter(Parser *p) {
    if (++p->depth <= JINJA_DEPTH_MAX)
        return true;
    (void)parse_fail(p, "more than %d levels are nested", JINJA_DEPTH_MAX);
    return false;
}

static bool at_operator(const Parser *p, const char *text) {
    return p->token->kind == TOKEN_OPERATOR && text_is(p->token->text, text);
}

static bool at_name(const Parser *p, const char *text) {
    return p->token->kind == TOKEN_NAME && text_is(p->token->text, text);
}

static bool take_operator(Parser *p, const char *text) {
    bool is = at_operator(p, text);

    p->token += is;
    return is;
}

static bool take_name(Parser *p, const char *text) {
    bool is = at_name(p, text);

    p->token += is;
    return is;
}

static bool expect_operator(Parser *p, const char *text) {
    char shown[8];

    if (take_operator(p, text))
        return true;
    (void)snprintf(shown, sizeof(shown), "'%s'", text);
    (void)unexpected(p, shown);
    return false;
}

/* Appends to a list of nodes. */
static void append(Node ***tail, Node *node) {
    **tail = node;
    *tail = &node->next;
}

/* ---- expressions ---- */

static Node *parse_expression(Parser *p);
static Node *parse_unary(Parser *p);
static Node *parse_primary(Parser *p);

static bool is_reserved(Text name) {
    static const char *const words[] = {"and",  "or", "not", "if", "else",
                                        "elif", "in", "is",  "for"};

    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (text_is(name, words[i]))
            return true;
    return false;
}

/* Up to the closing bracket: (a, b, name=c), which has been opened. */
static bool parse_arguments(Parser *p, Node *call) {
    Node **tail = &call->items;
    size_t n = 0;
    bool had_keyword = false;

    while (!take_operator(p, ")")) {
        Text keyword = {.n = 0};
        Node *item;

        if (n++ == JINJA_ARGUMENTS_MAX) {
            (void)parse_fail(p, "more than %d arguments", JINJA_ARGUMENTS_MAX);
            return false;
        }
        if (p->token->kind == TOKEN_NAME && p->token[1].kind == TOKEN_OPERATOR &&
            text_is(p->token[1].text, "=")) {
            keyword = p->token->text;
            p->token += 2;
            had_keyword = true;
        } else if (had_keyword) {
            (void)parse_fail(p, "an argument without a name follows one with a name");
            return false;
        }
        item = parse_expression(p);
        if (!above(p, call, item))
            return false;
        /* A name node has its own name: an argument is wrapped, so that it can have a keyword. */
        if (item->kind == NODE_NAME || item->name.n > 0) {
            Node *wrapped = new_node(p, NODE_CHOICE);

            if (!above(p, wrapped, item))
                return false;
            wrapped->left = item;
            item = wrapped;
            if (!above(p, call, item))
                return false;
        }
        item->name = keyword;
        append(&tail, item);
        if (!at_operator(p, ")") && !expect_operator(p, ","))
            return false;
    }
    return true;
}

/* [a, b] or (a, b), opened. */
static Node *parse_list(Parser *p, const char *end, Node *first) {
    Node *list = new_node(p, NODE_LIST), **tail;

    if (!list)
        return NULL;
    tail = &list->items;
    if (first) {
        if (!above(p, list, first))
            return NULL;
        append(&tail, first);
    }
    while (!take_operator(p, end)) {
        Node *item = parse_expression(p);

        if (!above(p, list, item))
            return NULL;
        append(&tail, item);
        if (!at_operator(p, end) && !expect_operator(p, ","))
            return NULL;
    }
    return list;
}

static Node *parse_map(Parser *p) {
    Node *map = new_node(p, NODE_MAP), **tail;

    if (!map)
        return NULL;
    tail = &map->items;
    while (!take_operator(p, "}")) {
        Node *key = parse_expression(p), *value;

        if (!above(p, map, key) || !expect_operator(p, ":"))
            return NULL;
        value = parse_expression(p);
        if (!above(p, map, value))
            return NULL;
        append(&tail, key);
        append(&tail, value);
        if (!at_operator(p, "}") && !expect_operator(p, ","))
            return NULL;
    }
    return map;
}

/* (a), (a, b), (). */
static Node *parse_parentheses(Parser *p) {
    Node *first;

    if (at_operator(p, ")"))
        return parse_list(p, ")", NULL);
    first = parse_expression(p);
    if (!first || take_operator(p, ")"))
        return first;
    return expect_operator(p, ",") ? parse_list(p, ")", first) : NULL;
}

/* Neighbouring strings are one. */
static Node *parse_string(Parser *p) {
    Node *node = new_node(p, NODE_LITERAL);
    const struct token *end = p->token;
    size_t n = 0;
    char *bytes;

    if (!node)
        return NULL;
    for (; end->kind == TOKEN_STRING; end++)
        n += end->text.n;
    bytes = arena_alloc(&p->t->arena, n + 1, 1);
    if (!bytes) {
        p->r = error_set(p->reterr, -ENOMEM, "out of memory");
        return NULL;
    }
    node->value = TEXT_VALUE(((Text){.bytes = bytes, .n = n}));
    for (; p->token < end; p->token++) {
        if (p->token->text.n > 0)
            (void)memcpy(bytes, p->token->text.bytes, p->token->text.n);
        bytes += p->token->text.n;
    }
    return node;
}

static Node *parse_name(Parser *p) {
    static const struct {
        const char *name;
        Value value;
    } constants[] = {
        {"true", {.kind = VALUE_BOOL, .number = 1}},
        {"True", {.kind = VALUE_BOOL, .number = 1}},
        {"false", {.kind = VALUE_BOOL, .number = 0}},
        {"False", {.kind = VALUE_BOOL, .number = 0}},
        {"none", {.kind = VALUE_NONE}},
        {"None", {.kind = VALUE_NONE}},
    };
    Node *node;

    if (is_reserved(p->token->text))
        return unexpected(p, "an expression");
    for (size_t i = 0; i < ARRAY_SIZE(constants); i++)
        if (text_is(p->token->text, constants[i].name)) {
            node = new_node(p, NODE_LITERAL);
            if (node)
                node->value = constants[i].value;
            p->token++;
            return node;
        }
    node = new_node(p, NODE_NAME);
    if (node)
        node->name = (p->token++)->text;
    return node;
}

static Node *parse_primary(Parser *p) {
    Node *node;

    switch (p->token->kind) {
    case TOKEN_STRING:
        return parse_string(p);
    case TOKEN_NAME:
        return parse_name(p);
    case TOKEN_NUMBER:
        node = new_node(p, NODE_LITERAL);
        if (node)
            node->value = NUMBER((p->token++)->number);
        return node;
    default:
        break;
    }
    if (take_operator(p, "("))
        return parse_parentheses(p);
    if (take_operator(p, "["))
        return parse_list(p, "]", NULL);
    if (take_operator(p, "{"))
        return parse_map(p);
    return unexpected(p, "an expression");
}

/* left[a] or left[a:b:c], opened. */
static Node *parse_subscript(Parser *p, Node *left) {
    Node *node = above(p, new_node(p, NODE_ITEM), left), *bound, **tail;
    bool is_slice = false;

    if (!node)
        return NULL;
    node->left = left;
    tail = &node->items;
    for (size_t i = 0; i < 3; i++) {
        if (at_operator(p, ":") || at_operator(p, "]")) {
            bound = new_node(p, NODE_LITERAL);
            if (bound)
                bound->value = NONE_VALUE;
        } else {
            bound = parse_expression(p);
        }
        if (!above(p, node, bound))
            return NULL;
        if (i == 0 && at_operator(p, "]")) {
            if (bound->kind == NODE_LITERAL && bound->value.kind == VALUE_NONE)
                return unexpected(p, "an expression");
            node->right = bound;
            break;
        }
        is_slice = true;
        append(&tail, bound);
        if (i < 2 && !at_operator(p, "]") && !expect_operator(p, ":"))
            return NULL;
    }
    if (is_slice)
        node->kind = NODE_SLICE;
    return expect_operator(p, "]") ? node : NULL;
}

/* left.name or left.name(…), after the dot. */
static Node *parse_attribute(Parser *p, Node *left) {
    Node *node = above(p, new_node(p, NODE_ITEM), left), *key;
    Text name = p->token->text;

    if (!node)
        return NULL;
    if (p->token->kind != TOKEN_NAME && p->token->kind != TOKEN_NUMBER)
        return unexpected(p, "a name");
    node->left = left;
    key = new_node(p, NODE_LITERAL);
    if (!key)
        return NULL;
    key->value = p->token->kind == TOKEN_NUMBER ? NUMBER(p->token->number) : TEXT_VALUE(name);
    p->token++;
    if (key->value.kind == VALUE_TEXT && take_operator(p, "(")) {
        node->kind = NODE_METHOD;
        if (!parse_arguments(p, node))
            return NULL;
        node->value = key->value;
        return node;
    }
    node->right = key;
    return above(p, node, key);
}

static Node *parse_call(Parser *p, Node *callee) {
    Node *node = new_node(p, NODE_CALL);

    if (!node)
        return NULL;
    if (callee->kind != NODE_NAME)
        return parse_fail(p, "only functions, methods, filters and tests can be called");
    node->value = TEXT_VALUE(callee->name);
    return parse_arguments(p, node) ? node : NULL;
}

static Node *parse_postfix(Parser *p, Node *node) {
    while (node) {
        if (take_operator(p, "."))
            node = parse_attribute(p, node);
        else if (take_operator(p, "["))
            node = parse_subscript(p, node);
        else if (take_operator(p, "("))
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}

static Node *parse_filter(Parser *p, Node *left) {
    Node *node = above(p, new_node(p, NODE_FILTER), left);

    if (!node)
        return NULL;
    if (p->token->kind != TOKEN_NAME)
        return unexpected(p, "a filter's name");
    if (!is_filter(p->token->text))
        return parse_fail(p, "the filter '%.*s' is not supported",
                          (int)MIN(p->token->text.n, (size_t)64), p->token->text.bytes);
    node->left = left;
    node->value = TEXT_VALUE((p->token++)->text);
    if (take_operator(p, "(") && !parse_arguments(p, node))
        return NULL;
    return node;
}

/* left is [not] name [argument], after "is". */
static Node *parse_test(Parser *p, Node *left) {
    Node *node = above(p, new_node(p, NODE_TEST), left), *negated, *argument;
    bool is_negated = take_name(p, "not");

    if (!node)
        return NULL;
    if (p->token->kind != TOKEN_NAME)
        return unexpected(p, "a test's name");
    if (!is_test(p->token->text))
        return parse_fail(p, "the test '%.*s' is not supported",
                          (int)MIN(p->token->text.n, (size_t)64), p->token->text.bytes);
    node->left = left;
    node->value = TEXT_VALUE((p->token++)->text);
    if (take_operator(p, "(")) {
        if (!parse_arguments(p, node))
            return NULL;
    } else if ((p->token->kind == TOKEN_NAME && !is_reserved(p->token->text)) ||
               p->token->kind == TOKEN_STRING || p->token->kind == TOKEN_NUMBER ||
               at_operator(p, "[") || at_operator(p, "{")) {
        argument = parse_postfix(p, parse_primary(p));
        negated = argument ? new_node(p, NODE_CHOICE) : NULL; /* see parse_arguments() */
        if (!above(p, negated, argument) || !above(p, node, negated))
            return NULL;
        negated->left = argument;
        node->items = negated;
    }
    if (!is_negated)
        return node;
    negated = above(p, new_node(p, NODE_NOT), node);
    if (negated)
        negated->left = node;
    return negated;
}

static Node *parse_filters(Parser *p, Node *node) {
    while (node) {
        if (take_operator(p, "|"))
            node = parse_filter(p, node);
        else if (take_name(p, "is"))
            node = parse_test(p, node);
        else if (take_operator(p, "("))
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}

static Node *parse_signed(Parser *p, bool with_filters) {
    Node *node, *operand;

    if (take_operator(p, "-")) {
        if (!enter(p))
            return NULL;
        operand = parse_signed(p, false);
        p->depth--;
        node = operand ? above(p, new_node(p, NODE_NEGATE), operand) : NULL;
        if (node)
            node->left = operand;
    } else if (take_operator(p, "+")) {
        if (!enter(p))
            return NULL;
        node = parse_signed(p, false);
        p->depth--;
    } else {
        node = parse_primary(p);
    }
    node = parse_postfix(p, node);
    return with_filters ? parse_filters(p, node) : node;
}

static Node *parse_unary(Parser *p) {
    return parse_signed(p, true);
}

static Node *new_binary(Parser *p, enum node_kind kind, enum operator op, Node *left, Node *right) {
    Node *node;

    if (!left || !right)
        return NULL;
    node = new_node(p, kind);
    if (!above(p, node, left) || !above(p, node, right))
        return NULL;
    node->op = op;
    node->left = left;
    node->right = right;
    return node;
}

struct infix {
    const char *text;
    enum operator op;
};

/* Operators of one level, from the left. */
static Node *parse_level(Parser *p, const struct infix *infixes, size_t n,
                         Node *(*parse_operand)(Parser *p)) {
    Node *left = parse_operand(p);

    for (size_t i = 0; left && i < n;) {
        if (take_operator(p, infixes[i].text)) {
            left = new_binary(p, NODE_BINARY, infixes[i].op, left, parse_operand(p));
            i = 0;
        } else {
            i++;
        }
    }
    return left;
}

static Node *parse_product(Parser *p) {
    static const struct infix infixes[] = {
        {"*", OP_MULTIPLY}, {"//", OP_DIVIDE_DOWN}, {"%", OP_MODULO}};

    return parse_level(p, infixes, ARRAY_SIZE(infixes), parse_unary);
}

static Node *parse_concatenation(Parser *p) {
    static const struct infix infixes[] = {{"~", OP_CONCATENATE}};

    return parse_level(p, infixes, ARRAY_SIZE(infixes), parse_product);
}

static Node *parse_sum(Parser *p) {
    static const struct infix infixes[] = {{"+", OP_ADD}, {"-", OP_SUBTRACT}};

    return parse_level(p, infixes, ARRAY_SIZE(infixes), parse_concatenation);
}

static bool take_comparison(Parser *p, enum operator* ret) {
    static const struct infix infixes[] = {{"==", OP_EQUAL},      {"!=", OP_UNEQUAL},
                                           {"<=", OP_LESS_EQUAL}, {">=", OP_GREATER_EQUAL},
                                           {"<", OP_LESS},        {">", OP_GREATER}};

    for (size_t i = 0; i < ARRAY_SIZE(infixes); i++)
        if (take_operator(p, infixes[i].text)) {
            *ret = infixes[i].op;
            return true;
        }
    if (take_name(p, "in")) {
        *ret = OP_IN;
        return true;
    }
    if (at_name(p, "not") && p->token[1].kind == TOKEN_NAME && text_is(p->token[1].text, "in")) {
        p->token += 2;
        *ret = OP_NOT_IN;
        return true;
    }
    return false;
}

/* a < b < c is a < b and b < c. */
static Node *parse_comparison(Parser *p) {
    Node *left = parse_sum(p), *all = NULL;
    enum operator op;

    while (left && take_comparison(p, &op)) {
        Node *right = parse_sum(p);
        Node *one = new_binary(p, NODE_BINARY, op, left, right);

        all = all ? new_binary(p, NODE_AND, op, all, one) : one;
        if (!all)
            return NULL;
        left = right;
    }
    return all ? all : left;
}

static Node *parse_not(Parser *p) {
    Node *node, *operand;

    if (!take_name(p, "not"))
        return parse_comparison(p);
    if (!enter(p))
        return NULL;
    operand = parse_not(p);
    p->depth--;
    node = operand ? above(p, new_node(p, NODE_NOT), operand) : NULL;
    if (node)
        node->left = operand;
    return node;
}

static Node *parse_and(Parser *p) {
    Node *left = parse_not(p);

    while (left && take_name(p, "and"))
        left = new_binary(p, NODE_AND, OP_ADD, left, parse_not(p));
    return left;
}

static Node *parse_or(Parser *p) {
    Node *left = parse_and(p);

    while (left && take_name(p, "or"))
        left = new_binary(p, NODE_OR, OP_ADD, left, parse_and(p));
    return left;
}

/* a if b else c; the else may be left out. */
static Node *parse_expression(Parser *p) {
    Node *node, *left;

    if (!enter(p))
        return NULL;
    left = parse_or(p);
    while (left && take_name(p, "if")) {
        node = above(p, new_node(p, NODE_CHOICE), left);
        if (!node)
            return NULL;
        node->left = left;
        node->condition = parse_or(p);
        if (!above(p, node, node->condition))
            return NULL;
        if (take_name(p, "else")) {
            node->right = parse_expression(p);
            if (!above(p, node, node->right))
                return NULL;
        }
        left = node;
    }
    p->depth--;
    return left;
}

/* a, b: a list, as a set or a for may have it. */
static Node *parse_tuple(Parser *p) {
    Node *first = parse_expression(p), *list, **tail;

    if (!first || !at_operator(p, ","))
        return first;
    list = above(p, new_node(p, NODE_LIST), first);
    if (!list)
        return NULL;
    tail = &list->items;
    append(&tail, first);
    while (take_operator(p, ",")) {
        Node *item = parse_expression(p);

        if (!above(p, list, item))
            return NULL;
        append(&tail, item);
    }
    return list;
}

/* ---- statements ---- */

/* Reads statements until a tag whose name is one of `ends` (NULL-ended; NULL: to the template's
 * end), which is left with its name next. */
static bool parse_body(Parser *p, const char *const *ends, Node *parent, Node **ret);

static bool end_tag(Parser *p) {
    if (p->token->kind == TOKEN_TAG_END) {
        p->token++;
        return true;
    }
    (void)unexpected(p, "'%}'");
    return false;
}

/* name, or a, b, or ns.name. */
static bool parse_targets(Parser *p, Node *parent, bool with_attribute) {
    Node **tail = &parent->targets;

    do {
        Node *name;

        if (p->token->kind != TOKEN_NAME || is_reserved(p->token->text)) {
            (void)unexpected(p, "a variable's name");
            return false;
        }
        name = parse_name(p);
        if (name && name->kind == NODE_NAME && with_attribute && take_operator(p, "."))
            name = parse_attribute(p, name);
        if (!above(p, parent, name))
            return false;
        if (name->kind != NODE_NAME && (name->kind != NODE_ITEM || name->left->kind != NODE_NAME)) {
            (void)parse_fail(p, "a value can't be set here");
            return false;
        }
        append(&tail, name);
    } while (take_operator(p, ","));
    return true;
}

static Node *parse_for(Parser *p) {
    static const char *const ends[] = {"else", "endfor", NULL}, *const end[] = {"endfor", NULL};
    Node *node = new_node(p, NODE_FOR);
    bool was_in_loop = p->in_loop;

    if (!node || !parse_targets(p, node, false))
        return NULL;
    if (!take_name(p, "in"))
        return unexpected(p, "'in'");
    node->left = parse_or(p);
    if (!above(p, node, node->left))
        return NULL;
    if (take_name(p, "if")) {
        node->condition = parse_expression(p);
        if (!above(p, node, node->condition))
            return NULL;
    }
    if (at_name(p, "recursive"))
        return parse_fail(p, "recursive loops are not supported");
    p->in_loop = true;
    if (!end_tag(p) || !parse_body(p, ends, node, &node->items))
        return NULL;
    p->in_loop = was_in_loop;
    if (take_name(p, "else") && (!end_tag(p) || !parse_body(p, end, node, &node->right)))
        return NULL;
    p->token++; /* endfor */
    return end_tag(p) ? node : NULL;
}

static Node *parse_if(Parser *p) {
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const end[] = {"endif",
                                                                                       NULL};
    Node *node = new_node(p, NODE_IF);

    if (!node)
        return NULL;
    node->condition = parse_tuple(p);
    if (!above(p, node, node->condition) || !end_tag(p) || !parse_body(p, ends, node, &node->items))
        return NULL;
    if (take_name(p, "elif")) {
        if (!enter(p))
            return NULL;
        node->right = parse_if(p);
        p->depth--;
        return above(p, node, node->right);
    }
    if (take_name(p, "else") && (!end_tag(p) || !parse_body(p, end, node, &node->right)))
        return NULL;
    p->token++; /* endif */
    return end_tag(p) ? node : NULL;
}

static Node *parse_set(Parser *p) {
    static const char *const end[] = {"endset", NULL};
    Node *node = new_node(p, NODE_SET);

    if (!node || !parse_targets(p, node, true))
        return NULL;
    if (take_operator(p, "=")) {
        node->left = parse_tuple(p);
        return above(p, node, node->left) && end_tag(p) ? node : NULL;
    }
    if (at_operator(p, "|"))
        return parse_fail(p, "filters of a set block are not supported");
    if (!end_tag(p) || !parse_body(p, end, node, &node->items))
        return NULL;
    p->token++; /* endset */
    return end_tag(p) ? node : NULL;
}

/* {% generation %} marks the answers for training: what is inside stands for itself. */
static Node *parse_generation(Parser *p) {
    static const char *const end[] = {"endgeneration", NULL};
    Node *node = new_node(p, NODE_IF);

    if (!node)
        return NULL;
    node->condition = new_node(p, NODE_LITERAL);
    if (!above(p, node, node->condition))
        return NULL;
    node->condition->value = BOOL(true);
    if (!end_tag(p) || !parse_body(p, end, node, &node->items))
        return NULL;
    p->token++; /* endgeneration */
    return end_tag(p) ? node : NULL;
}

static Node *parse_jump(Parser *p, enum node_kind kind) {
    Node *node = new_node(p, kind);

    if (!p->in_loop)
        return parse_fail(p, "'%s' stands outside of every loop",
                          kind == NODE_BREAK ? "break" : "continue");
    return node && end_tag(p) ? node : NULL;
}

static Node *parse_tag(Parser *p) {
    if (take_name(p, "for"))
        return parse_for(p);
    if (take_name(p, "if"))
        return parse_if(p);
    if (take_name(p, "set"))
        return parse_set(p);
    if (take_name(p, "generation"))
        return parse_generation(p);
    if (take_name(p, "break"))
        return parse_jump(p, NODE_BREAK);
    if (take_name(p, "continue"))
        return parse_jump(p, NODE_CONTINUE);
    if (p->token->kind != TOKEN_NAME)
        return unexpected(p, "a tag's name");
    return parse_fail(p, "the tag '%.*s' is not supported here",
                      (int)MIN(p->token->text.n, (size_t)64), p->token->text.bytes);
}

static Node *parse_print(Parser *p) {
    Node *node = new_node(p, NODE_PRINT);

    if (!node)
        return NULL;
    node->left = parse_expression(p);
    if (!above(p, node, node->left))
        return NULL;
    if (p->token->kind != TOKEN_PRINT_END)
        return unexpected(p, "'}}'");
    p->token++;
    return node;
}

static Node *parse_text(Parser *p) {
    Node *node = new_node(p, NODE_TEXT);

    if (node)
        node->value = TEXT_VALUE((p->token++)->text);
    return node;
}

static Node *parse_statement(Parser *p) {
    switch ((p->token++)->kind) {
    case TOKEN_TEXT:
        p->token--;
        return parse_text(p);
    case TOKEN_PRINT:
        return parse_print(p);
    default:
        return parse_tag(p);
    }
}

static bool parse_body(Parser *p, const char *const *ends, Node *parent, Node **ret) {
    Node **tail = ret;

    if (!enter(p))
        return false;
    while (p->token->kind != TOKEN_END) {
        Node *node;

        for (size_t i = 0; p->token->kind == TOKEN_TAG && ends && ends[i]; i++)
            if (p->token[1].kind == TOKEN_NAME && text_is(p->token[1].text, ends[i])) {
                p->token++;
                p->depth--;
                return true;
            }
        node = parse_statement(p);
        if (!node || (parent && !above(p, parent, node)))
            return false;
        append(&tail, node);
    }
    p->depth--;
    if (ends)
        (void)parse_fail(p, "'{%% %s %%}' is missing at the template's end",
                         ends[0] && ends[1] ? (ends[2] ? ends[2] : ends[1]) : ends[0]);
    return !ends;
}

/* ---- templates ---- */

/* \r\n and \r are newlines like \n; the last one is no part of the template. */
static void copy_source(Template *t, const char *source, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (source[i] == '\r' && i + 1 < n && source[i + 1] == '\n')
            continue;
        t->source[t->n_source++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (t->n_source > 0 && t->source[t->n_source - 1] == '\n')
        t->n_source--;
    t->source[t->n_source] = '\0';
}

int template_parse(Template **ret, const char *source, size_t n, Error *reterr) {
    CLEANUP(template_freep) Template *t = NULL;
    CLEANUP(freep) struct token *tokens = NULL;
    Parser p = {.reterr = reterr};
    int r;

    if (n > JINJA_SOURCE_BYTES_MAX)
        return error_set(reterr, GK_E_INVALID, "a chat template of %zu bytes (at most %u)", n,
                         JINJA_SOURCE_BYTES_MAX);
    if (memchr(source, 0, n))
        return error_set(reterr, GK_E_INVALID, "a chat template with a zero byte");
    t = alloc_new(Template);
    if (!t)
        return error_set(reterr, -ENOMEM, "out of memory");
    t->arena = ARENA_INIT(JINJA_MEMORY_BYTES_MAX);
    t->source = alloc_array(n + 1, 1);
    if (!t->source)
        return error_set(reterr, -ENOMEM, "out of memory");
    copy_source(t, source, n);
    r = jinja_lex(t, &tokens, reterr);
    if (r)
        return r;
    p.t = t;
    p.token = tokens;
    if (!parse_body(&p, NULL, NULL, &t->body))
        return p.r;
    *ret = take_ptr(t);
    return 0;
}

Template *template_free(Template *t) {
    if (!t)
        return NULL;
    arena_deinit(&t->arena);
    free(t->source);
    free(t);
    return NULL;
}

bool template_has(const Template *t, const void *bytes, size_t n) {
    return memmem(t->source, t->n_source, bytes, n) != NULL;
}

bool template_has_string(const Template *t, const char *text) {
    size_t n = strlen(text);

    for (const char *at = t->source; (at = strstr(at, text)) != NULL; at++)
        if (at > t->source && (at[-1] == '\'' || at[-1] == '"') && at[n] == at[-1])
            return true;
    return false;
}
