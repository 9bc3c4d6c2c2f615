/* Who may use which service: lists of users and groups, looked up once, asked at every connection.
 */
#pragma once

#include "base/error.h"
#include "daemon/config.h"

#include <limits.h>
#include <sys/types.h>

#define ACCESS_NAMES_MAX 64
/* What the kernel allows, and the main one. */
#define ACCESS_GROUPS_MAX (NGROUPS_MAX + 1)

struct access_name {
    enum { ACCESS_ALL, ACCESS_USER, ACCESS_GROUP } kind;
    uint32_t id;
};

struct access_list {
    struct access_name names[ACCESS_NAMES_MAX];
    size_t n;
};

/* Limits of a user or a group. */
struct access_limits {
    struct access_name name;
    const struct config_account *account;
};

/* Owner: Daemon. Thread: loop. */
typedef struct Access {
    struct access_list allow[_CONFIG_SERVICES], deny[_CONFIG_SERVICES];
    struct access_limits accounts[CONFIG_ACCOUNTS_MAX];
    size_t n_accounts;
} Access;

/* Owner: Daemon, as it is large. A process at the other end of a connection. */
struct access_peer {
    uid_t uid;
    pid_t pid;
    gid_t groups[ACCESS_GROUPS_MAX];
    size_t n_groups;
};

/* Looks every name up. Returns -EINVAL (reterr says which is wrong). */
int access_init(Access *a, const Config *c, Error *reterr);
/* Who is connected to the socket, by the kernel's word. */
int access_read_peer(int fd, struct access_peer *ret);
/* One bit for each enum config_service that it may use. */
unsigned access_services(const Access *a, const struct access_peer *peer);
/* The user's limits: its own, else the largest of its groups', else the ones of [limits]. */
void access_fill_limits(const Access *a, const Config *c, const struct access_peer *peer,
                        uint64_t ret_max[_QUOTA_N]);
