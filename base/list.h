/* The one intrusive doubly linked list. A node that is in no list points at itself. */
#pragma once

#include "base/macro.h"

#include <stdbool.h>

typedef struct ListNode ListNode;

struct ListNode {
    ListNode *next, *prev;
};

static inline void list_init(ListNode *head) {
    head->next = head->prev = head;
}

static inline bool list_is_empty(const ListNode *head) {
    return head->next == head;
}

static inline void list_push_back(ListNode *head, ListNode *node) {
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}

static inline void list_push_front(ListNode *head, ListNode *node) {
    list_push_back(head->next, node);
}

static inline void list_unlink(ListNode *node) {
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}

#define list_first(head, type, member)                                                             \
    (list_is_empty(head) ? NULL : container_of((head)->next, type, member))

#define list_for_each(node, head)                                                                  \
    for (ListNode *node = (head)->next; node != (head); node = node->next)

/* The body may unlink or free `node`. */
#define list_for_each_safe(node, head)                                                             \
    for (ListNode *node = (head)->next, *node##_next = node->next; node != (head);                 \
         node = node##_next, node##_next = node->next)
