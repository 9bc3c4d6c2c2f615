/* daemon/listener, daemon/conn: a daemon without models in the test's own process. */
#include "base/alloc.h"
#include "daemon/config.h"
#include "daemon/conn.h"
#include "daemon/daemon.h"
#include "proto/ttrpc.h"
#include "proto/ttrpc.pb-c.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static Daemon d;
static Config config;

/* Returns what daemon_init() does. */
static int start(const char *path, uint64_t n_user_bytes_max) {
    int r;

    assert(config_init(&config) == 0);
    free(config.socket);
    config.socket = alloc_string(path);
    config.socket_mode = 0640;
    config.n_threads = 1;
    config.limits[QUOTA_BYTES] = n_user_bytes_max;
    r = daemon_init(&d, &config);
    if (r == 0)
        assert(listener_start(&d.listener) == 0);
    else
        config_deinit(&config);
    return r;
}

static void turn(unsigned n) {
    for (unsigned i = 0; i < n; i++)
        (void)uv_run(&d.loop, UV_RUN_NOWAIT);
}

/* Everything given back is asserted by the daemon itself. */
static void stop(void) {
    listener_close(&d.listener);
    list_for_each_safe (node, &d.connections)
        conn_close(container_of(node, Conn, node));
    turn(3);
    daemon_deinit(&d);
    config_deinit(&config);
}

static struct sockaddr_un address_of(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    return address;
}

static int bind_at(const char *path) {
    struct sockaddr_un address = address_of(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    return fd;
}

static int connect_to(const char *path) {
    struct sockaddr_un address = address_of(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    assert(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    return fd;
}

static void test_appears_whole_and_goes_at_the_end(void) {
    const char *path = temp_path("s"), *temporary = temp_path("s~");
    struct stat status;
    int fd = bind_at(path); /* stale: nobody listens */

    assert(start(path, 1 << 20) == 0);
    assert(lstat(path, &status) == 0 && S_ISSOCK(status.st_mode));
    assert((status.st_mode & 0777) == 0640 && lstat(temporary, &status) < 0);
    stop();
    assert(lstat(path, &status) < 0 && errno == ENOENT);
    (void)close(fd);
}

static void test_live_sockets_and_files_are_left_alone(void) {
    const char *live = temp_path("live"), *file = temp_path("file");
    int fd = bind_at(live), other = open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

    assert(listen(fd, 1) == 0 && other >= 0);
    assert(start(live, 1 << 20) < 0);
    assert(access(live, F_OK) == 0);
    assert(start(file, 1 << 20) < 0);
    assert(access(file, F_OK) == 0);
    (void)close(fd);
    (void)close(other);
}

static void test_only_what_is_ours_is_removed(void) {
    const char *path = temp_path("replaced");
    int fd;

    assert(start(path, 1 << 20) == 0);
    assert(unlink(path) == 0);
    fd = bind_at(path);
    stop();
    assert(access(path, F_OK) == 0);
    (void)close(fd);
}

/* Without a second try libuv would never poll the socket again. */
static void test_accepts_again_after_memory_was_short(void) {
    const char *path = temp_path("memory");
    int first, second;

    assert(start(path, 1 << 20) == 0);
    first = connect_to(path);
    alloc_fail_after(1);
    turn(2);
    alloc_fail_after(0);
    assert(d.n_connections == 0);
    second = connect_to(path);
    for (int i = 0; i < 100 && d.n_connections < 2; i++) {
        (void)usleep(10000);
        turn(1);
    }
    assert(d.n_connections == 2);
    (void)close(first);
    (void)close(second);
    stop();
}

static size_t put_request(Buf *to, uint32_t stream) {
    Ttrpc__Request envelope = TTRPC__REQUEST__INIT;
    char service[] = "grokd.v1.Admin", method[] = "Status";

    envelope.service = service;
    envelope.method = method;
    assert(ttrpc_put_message(to, stream, TTRPC_REQUEST, 0, &envelope.base) == 0);
    return buf_size(to);
}

/* Ours, as nobody else is connected. */
static uint64_t charged_bytes(void) {
    const User *user = list_first(&d.quota.users, User, node);

    return user ? user->used[QUOTA_BYTES] : 0;
}

/* Asks and never reads. */
static void test_unread_answers_are_the_users(void) {
    const char *path = temp_path("unread");
    Buf bytes = BUF_INIT(4096);
    uint64_t most = 0;
    uint32_t stream = 1;
    int fd;

    assert(start(path, 100000) == 0);
    fd = connect_to(path);
    turn(2);
    assert(d.n_connections == 1);
    for (int i = 0; i < 100000 && d.n_connections == 1; i++) {
        size_t n = put_request(&bytes, stream);

        stream += 2;
        if (send(fd, buf_bytes(&bytes), n, MSG_NOSIGNAL) < 0)
            assert(errno == EPIPE || errno == ECONNRESET);
        buf_consume(&bytes, n);
        turn(1);
        most = MAX(most, charged_bytes());
    }
    turn(2);
    assert(d.n_connections == 0 && most > 0 && most <= 100000);
    assert(charged_bytes() == 0);
    buf_deinit(&bytes);
    (void)close(fd);
    stop();
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(appears_whole_and_goes_at_the_end), TEST(live_sockets_and_files_are_left_alone),
        TEST(only_what_is_ours_is_removed),      TEST(accepts_again_after_memory_was_short),
        TEST(unread_answers_are_the_users),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
