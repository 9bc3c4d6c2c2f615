/* See mailbox.h. */
#include "daemon/mailbox.h"

#include <errno.h>

int mailbox_init(Mailbox *m, size_t n_max, void (*wake)(void *userdata), void *userdata) {
    *m = (Mailbox){.n_max = n_max, .wake = wake, .userdata = userdata};
    list_init(&m->letters);
    if (pthread_mutex_init(&m->lock, NULL) != 0)
        return -ENOMEM;
    if (pthread_cond_init(&m->came, NULL) != 0 || pthread_cond_init(&m->left, NULL) != 0)
        return -ENOMEM;
    return 0;
}

void mailbox_deinit(Mailbox *m) {
    assert(list_is_empty(&m->letters));
    (void)pthread_cond_destroy(&m->left);
    (void)pthread_cond_destroy(&m->came);
    (void)pthread_mutex_destroy(&m->lock);
}

/* With the lock, which it gives back. */
static void say(Mailbox *m, bool was_empty) {
    (void)pthread_cond_signal(&m->came);
    (void)pthread_mutex_unlock(&m->lock);
    if (was_empty && m->wake)
        m->wake(m->userdata);
}

int mailbox_push(Mailbox *m, ListNode *letter) {
    (void)pthread_mutex_lock(&m->lock);
    if (m->n >= m->n_max) {
        (void)pthread_mutex_unlock(&m->lock);
        return MAILBOX_E_FULL;
    }
    list_push_back(&m->letters, letter);
    say(m, m->n++ == 0);
    return 0;
}

void mailbox_push_all(Mailbox *m, ListNode *from) {
    bool was_empty;

    if (list_is_empty(from))
        return;
    (void)pthread_mutex_lock(&m->lock);
    while (m->n >= m->n_max)
        (void)pthread_cond_wait(&m->left, &m->lock);
    was_empty = m->n == 0;
    list_for_each_safe (node, from) {
        list_unlink(node);
        list_push_back(&m->letters, node);
        m->n++;
    }
    say(m, was_empty);
}

void mailbox_lift_limit(Mailbox *m) {
    (void)pthread_mutex_lock(&m->lock);
    m->n_max = SIZE_MAX;
    (void)pthread_cond_broadcast(&m->left);
    (void)pthread_mutex_unlock(&m->lock);
}

/* With the lock. */
static void take_all(Mailbox *m, ListNode *to) {
    while (!list_is_empty(&m->letters)) {
        ListNode *letter = m->letters.next;

        list_unlink(letter);
        list_push_back(to, letter);
    }
    m->n = 0;
    (void)pthread_cond_broadcast(&m->left);
}

void mailbox_take(Mailbox *m, ListNode *to) {
    (void)pthread_mutex_lock(&m->lock);
    take_all(m, to);
    m->is_poked = false;
    (void)pthread_mutex_unlock(&m->lock);
}

void mailbox_wait(Mailbox *m, ListNode *to) {
    (void)pthread_mutex_lock(&m->lock);
    while (m->n == 0 && !m->is_poked)
        (void)pthread_cond_wait(&m->came, &m->lock);
    take_all(m, to);
    m->is_poked = false;
    (void)pthread_mutex_unlock(&m->lock);
}

void mailbox_poke(Mailbox *m) {
    (void)pthread_mutex_lock(&m->lock);
    m->is_poked = true;
    (void)pthread_cond_signal(&m->came);
    (void)pthread_mutex_unlock(&m->lock);
}
