/*
 * See listener.h.
 *
 * A path appears whole or not at all: the socket is bound under a temporary name beside it, gets
 * its mode and group, listens, and is renamed into place. A socket that nobody answers on is
 * replaced; a live one, and what is no socket, is refused. At the end only what is still ours is
 * removed.
 */
#include "daemon/listener.h"

#include "base/alloc.h"
#include "daemon/conn.h"
#include "daemon/daemon.h"
#include "daemon/log.h"

#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#define BACKLOG  256
#define RETRY_US 100000

/* ---- a path of our own ---- */

static int set_address(struct sockaddr_un *a, const char *path) {
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(a->sun_path)) {
        log_error("%s: a socket's path has at most %zu bytes", path, sizeof(a->sun_path) - 1);
        return -ENAMETOOLONG;
    }
    (void)snprintf(a->sun_path, sizeof(a->sun_path), "%s", path);
    return 0;
}

/* Nobody may be listening there. */
static int check_path(const char *path) {
    CLEANUP(closep) int fd = -1;
    struct sockaddr_un address;
    struct stat status = {0};

    if (lstat(path, &status) < 0) {
        if (errno == ENOENT)
            return 0;
        log_error("%s: %m", path);
        return -errno;
    }
    if (!S_ISSOCK(status.st_mode)) {
        log_error("%s is there and is no socket; it is left alone", path);
        return -EEXIST;
    }
    if (set_address(&address, path) < 0)
        return -ENAMETOOLONG;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    /* EAGAIN: its queue is full, so it lives. */
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 || errno == EAGAIN) {
        log_error("another process already listens on %s", path);
        return -EADDRINUSE;
    }
    if (errno == ECONNREFUSED) {
        log_info("replacing the socket %s, which nobody listens on any more", path);
        return 0;
    }
    log_error("%s: can't tell whether somebody listens there: %m", path);
    return -errno;
}

static int set_owner(const char *path, const struct listener_options *o) {
    const struct group *group;

    if (o->group[0]) {
        group = getgrnam(o->group);
        if (!group) {
            log_error("there is no group %s for the socket", o->group);
            return -EINVAL;
        }
        if (chown(path, (uid_t)-1, group->gr_gid) < 0) {
            log_error("%s: can't give it to group %s: %m", path, o->group);
            return -errno;
        }
    }
    if (chmod(path, (mode_t)o->mode) < 0) {
        log_error("%s: can't set its mode: %m", path);
        return -errno;
    }
    return 0;
}

/* Binds, sets up and listens under the temporary name; the caller removes it on failure. */
static int listen_at(const char *path, const struct listener_options *o, int *ret_fd) {
    CLEANUP(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address;
    int r;

    r = set_address(&address, path);
    if (r < 0)
        return r;
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        log_error("can't bind %s: %m", path);
        return -errno;
    }
    r = set_owner(path, o);
    if (r < 0)
        return r;
    if (listen(fd, BACKLOG) < 0) {
        log_error("can't listen on %s: %m", path);
        return -errno;
    }
    *ret_fd = take_fd(&fd);
    return 0;
}

static int open_path(Listener *l, const struct listener_options *o) {
    char temporary[sizeof(((struct sockaddr_un *)NULL)->sun_path) + 32];
    struct stat status = {0};
    int fd = -1, r;

    r = check_path(o->path);
    if (r < 0)
        return r;
    /* Short, as it must fit into an address as well. */
    (void)snprintf(temporary, sizeof(temporary), "%s~", o->path);
    (void)unlink(temporary);
    r = listen_at(temporary, o, &fd);
    if (r == 0 && lstat(temporary, &status) < 0) {
        log_error("%s: %m", temporary);
        r = -errno;
        closep(&fd);
    }
    if (r == 0 && rename(temporary, o->path) < 0) {
        log_error("can't rename %s to %s: %m", temporary, o->path);
        r = -errno;
        closep(&fd);
    }
    if (r == 0 && !(l->path = alloc_string(o->path))) {
        closep(&fd);
        r = -ENOMEM;
    }
    if (r < 0) {
        (void)unlink(temporary);
        return r;
    }
    l->device = status.st_dev;
    l->inode = status.st_ino;
    l->fds[l->n_fds++] = fd;
    return 0;
}

/* Whoever removed our socket may have put another there, which is not ours to remove. */
static bool is_still_ours(const Listener *l) {
    struct stat status;

    return lstat(l->path, &status) == 0 && status.st_dev == l->device && status.st_ino == l->inode;
}

/* ---- systemd's ---- */

static int take_passed(Listener *l, char **names, int n) {
    for (int i = 0; i < n; i++) {
        int fd = SD_LISTEN_FDS_START + i;

        if (sd_is_socket_unix(fd, SOCK_STREAM, /* listening= */ 1, NULL, 0) <= 0) {
            log_warning("what systemd passed as '%s' is no listening Unix socket, ignoring it",
                        names && names[i] ? names[i] : "unknown");
            (void)close(fd);
            continue;
        }
        if (l->n_fds == LISTENER_SOCKETS_MAX) {
            log_error("systemd passed more than %d sockets", LISTENER_SOCKETS_MAX);
            return -E2BIG;
        }
        log_info("listening on the socket '%s' that systemd passed",
                 names && names[i] ? names[i] : "unknown");
        l->fds[l->n_fds++] = fd;
    }
    return 0;
}

static int open_passed(Listener *l) {
    char **names = NULL;
    int n = sd_listen_fds_with_names(/* unset_environment= */ 1, &names), r;

    if (n < 0) {
        log_error("can't tell which sockets systemd passed: %s", strerror(-n));
        return n;
    }
    r = take_passed(l, names, n);
    for (int i = 0; names && names[i]; i++)
        free(names[i]);
    free(names);
    return r;
}

/* ---- the object ---- */

int listener_open(Listener *l, struct Daemon *daemon, const struct listener_options *options) {
    int r;

    *l = (Listener){.daemon = daemon};
    r = open_passed(l);
    if (r < 0 || l->n_fds > 0)
        return r;
    return open_path(l, options);
}

/* libuv listens no further until the connection is accepted. */
static void accept_one(Listener *l, size_t i) {
    l->is_waiting[i] = !conn_accept(l->daemon, (uv_stream_t *)&l->pipes[i]);
    if (l->is_waiting[i])
        daemon_wake_at(l->daemon, daemon_now_us(l->daemon) + RETRY_US);
}

static void on_connection(uv_stream_t *stream, int status) {
    Listener *l = stream->data;

    if (status < 0) { /* of one connection, or of a moment: never a reason to end */
        log_warning("can't accept a connection: %s", uv_strerror(status));
        return;
    }
    accept_one(l, (size_t)((uv_pipe_t *)stream - l->pipes));
}

void listener_retry(Listener *l) {
    for (size_t i = 0; i < l->n_pipes && !l->is_closed; i++)
        if (l->is_waiting[i])
            accept_one(l, i);
}

int listener_start(Listener *l) {
    for (size_t i = 0; i < l->n_fds; i++) {
        uv_pipe_t *pipe = &l->pipes[i];
        int r = uv_pipe_init(&l->daemon->loop, pipe, /* ipc= */ 0);

        if (r < 0)
            return r;
        pipe->data = l;
        l->n_pipes = i + 1;
        r = uv_pipe_open(pipe, l->fds[i]);
        if (r == 0)
            l->fds[i] = -1; /* the handle's from now on */
        if (r == 0)
            r = uv_listen((uv_stream_t *)pipe, BACKLOG, on_connection);
        if (r < 0) {
            log_error("can't listen: %s", uv_strerror(r));
            return r;
        }
    }
    return 0;
}

void listener_close(Listener *l) {
    if (l->is_closed)
        return;
    l->is_closed = true;
    /* Before the descriptor: while it listens, no other grokd takes the name over. */
    if (l->path && is_still_ours(l))
        (void)unlink(l->path);
    for (size_t i = 0; i < l->n_pipes; i++)
        uv_close((uv_handle_t *)&l->pipes[i], NULL);
    for (size_t i = 0; i < l->n_fds; i++)
        closep(&l->fds[i]);
    free(l->path);
    l->path = NULL;
}
