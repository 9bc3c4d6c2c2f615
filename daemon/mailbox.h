/* The only door between the loop and the worker: a bounded queue that one side fills and the other
 * empties. */
#pragma once

#include "base/list.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

/* Owner: Worker. Thread: any, under its lock. */
typedef struct Mailbox {
    pthread_mutex_t lock;
    pthread_cond_t came, left; /* a letter, or room */
    ListNode letters;
    size_t n, n_max;
    bool is_poked;
    void (*wake)(void *userdata); /* called without the lock when letters came where none were */
    void *userdata;
} Mailbox;

enum { _MAILBOX_E_SUCCESS, MAILBOX_E_FULL };

/* `wake` may be NULL: the reader then waits with mailbox_wait(). */
int mailbox_init(Mailbox *m, size_t n_max, void (*wake)(void *userdata), void *userdata);
/* Must be empty. */
void mailbox_deinit(Mailbox *m);
/* Never waits. Returns MAILBOX_E_FULL: the letter is still the caller's. */
int mailbox_push(Mailbox *m, ListNode *letter);
/* Waits for room, then moves all letters of `from` there, oldest first, even where there is not
 * room for all: the reader wakes once for them. */
void mailbox_push_all(Mailbox *m, ListNode *from);
/* From now on there is always room: the reader is about to wait for the writer's end. */
void mailbox_lift_limit(Mailbox *m);
/* Moves all letters to the end of `to`, oldest first. */
void mailbox_take(Mailbox *m, ListNode *to);
/* The same, after waiting until there are letters or somebody poked. */
void mailbox_wait(Mailbox *m, ListNode *to);
/* Ends the wait under way, or the next one. */
void mailbox_poke(Mailbox *m);
