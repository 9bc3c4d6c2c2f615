/* Inside the templates: their tokens and trees. */
#pragma once

#include "base/arena.h"
#include "engine/text/jinja-value.h"
#include "engine/text/jinja.h"

enum token_kind {
    TOKEN_END,
    TOKEN_TEXT,      /* outside of braces */
    TOKEN_PRINT,     /* {{ */
    TOKEN_PRINT_END, /* }} */
    TOKEN_TAG,       /* {% */
    TOKEN_TAG_END,   /* %} */
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_NUMBER,
    TOKEN_OPERATOR,
};

struct token {
    enum token_kind kind;
    uint32_t line;
    Text text; /* an operator's characters, a string's value */
    int64_t number;
};

enum node_kind {
    /* expressions */
    NODE_LITERAL, /* value */
    NODE_NAME,    /* name */
    NODE_LIST,    /* items */
    NODE_MAP,     /* items: pairs of key and value */
    NODE_ITEM,    /* left[right] and left.name */
    NODE_SLICE,   /* left[items: begin, end, step; each a NODE_LITERAL none where left out] */
    NODE_CALL,    /* name(items), with keywords */
    NODE_METHOD,  /* left.name(items) */
    NODE_FILTER,  /* left | name(items) */
    NODE_TEST,    /* left is name(items) */
    NODE_NOT,     /* left */
    NODE_NEGATE,  /* left */
    NODE_AND,     /* left, right */
    NODE_OR,      /* left, right */
    NODE_BINARY,  /* left, op, right */
    NODE_CHOICE,  /* left if condition else right (may be NULL) */
    /* statements */
    NODE_TEXT,  /* value */
    NODE_PRINT, /* left */
    NODE_FOR,   /* for targets in left if condition: items, else right */
    NODE_IF,    /* if condition: items, else right */
    NODE_SET,   /* set targets = left, or items where left is NULL */
    NODE_BREAK,
    NODE_CONTINUE,
};

enum operator{
    OP_ADD,
    OP_SUBTRACT,
    OP_MULTIPLY,
    OP_DIVIDE_DOWN,
    OP_MODULO,
    OP_CONCATENATE,
    OP_EQUAL,
    OP_UNEQUAL,
    OP_LESS,
    OP_LESS_EQUAL,
    OP_GREATER,
    OP_GREATER_EQUAL,
    OP_IN,
    OP_NOT_IN,
};

/* Owner: Template's arena. Read-only once parsed. */
typedef struct Node Node;
struct Node {
    enum node_kind kind;
    enum operator op;
    uint32_t line;
    uint32_t depth; /* 1 + the deepest below */
    Text name;      /* of an argument: its keyword, or empty */
    Value value;
    Node *left, *right, *condition;
    Node *items, *targets;
    Node *next; /* in the list that it is in */
};

struct Template {
    Arena arena;
    char *source; /* its newlines are \n */
    size_t n_source;
    Node *body;
};

/* Cuts the source into tokens, which end with TOKEN_END. Returns GK_E_INVALID, -ENOMEM. */
int jinja_lex(Template *t, struct token **ret, Error *reterr);
