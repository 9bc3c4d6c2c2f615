/* The socket: a path of our own, or the ones that systemd passes. */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <uv.h>

#define LISTENER_SOCKETS_MAX 8

struct Daemon;

/* Owner: Daemon. Thread: loop. */
typedef struct Listener {
    struct Daemon *daemon;
    uv_pipe_t pipes[LISTENER_SOCKETS_MAX];
    size_t n_pipes;                        /* being handles of the loop */
    bool is_waiting[LISTENER_SOCKETS_MAX]; /* a connection waits for memory */
    int fds[LISTENER_SOCKETS_MAX];
    size_t n_fds;
    char *path;   /* NULL: systemd's */
    dev_t device; /* of the path that was bound */
    ino_t inode;
    bool is_closed;
} Listener;

struct listener_options {
    const char *path, *group;
    unsigned mode;
};

/* Binds, or takes what was passed; connections wait in the kernel until listener_start(). Logs what
 * can't be done; returns < 0. */
int listener_open(Listener *l, struct Daemon *daemon, const struct listener_options *options);
int listener_start(Listener *l);
/* Tries again to take what waits. */
void listener_retry(Listener *l);
/* Takes no more, and removes the path where it is ours. */
void listener_close(Listener *l);
