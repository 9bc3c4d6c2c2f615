/*
 * See access.h.
 *
 * Names become numbers once, at start: a directory that is slow or away can't hold up the loop, and
 * a name that means nobody is told before it lets somebody in. The kernel tells the groups of who
 * connects (SO_PEERGROUPS), as they were at that moment.
 *
 * Root and the daemon's own user are on every list of those allowed; a list of those denied wins
 * over everything.
 */
#include "daemon/access.h"

#include "base/number.h"

#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NAME_BYTES_MAX 256
#define GROUP_MARK     '@'

static const char *const service_words[] = {
#define X(name, word) #word,
    CONFIG_SERVICE_MAP(X)
#undef X
};

/* ---- names ---- */

/* UINT32_MAX is nobody's number. */
static bool read_number(const char *text, uint32_t *ret) {
    uint64_t number;
    const char *rest = number_read(text, UINT32_MAX - 1, &number);

    if (!rest || *rest != '\0')
        return false;
    *ret = (uint32_t)number;
    return true;
}

/* A user, or a group where `is_group`: by name or number. */
static int find_id(const char *name, bool is_group, uint32_t *ret, Error *reterr) {
    const struct passwd *user = is_group ? NULL : getpwnam(name);
    const struct group *group = is_group ? getgrnam(name) : NULL;

    if (user)
        *ret = user->pw_uid;
    else if (group)
        *ret = group->gr_gid;
    else if (!read_number(name, ret))
        return error_set(reterr, -EINVAL, "there is no %s '%.100s'", is_group ? "group" : "user",
                         name);
    return 0;
}

static int add_name(struct access_list *list, const char *name, Error *reterr) {
    struct access_name *to = &list->names[list->n];
    bool is_group = name[0] == GROUP_MARK;
    int r = 0;

    if (list->n == ACCESS_NAMES_MAX)
        return error_set(reterr, -EINVAL, "there are more than %d names", ACCESS_NAMES_MAX);
    *to = (struct access_name){.kind = is_group ? ACCESS_GROUP : ACCESS_USER};
    if (strcmp(name, "*") == 0)
        to->kind = ACCESS_ALL;
    else
        r = find_id(name + is_group, is_group, &to->id, reterr);
    list->n += r == 0;
    return r;
}

/* Names between blanks or commas. */
static int add_names(struct access_list *list, const char *text, Error *reterr) {
    static const char blanks[] = " \t,";
    char name[NAME_BYTES_MAX];
    int r = 0;

    for (text += strspn(text, blanks); *text && r == 0; text += strspn(text, blanks)) {
        size_t n = strcspn(text, blanks);

        if (n >= sizeof(name))
            return error_set(reterr, -EINVAL, "'%.32s…' is too long for a name", text);
        (void)memcpy(name, text, n);
        name[n] = '\0';
        r = add_name(list, name, reterr);
        text += n;
    }
    return r;
}

static void add_own(struct access_list *list) {
    list->names[list->n++] = (struct access_name){.kind = ACCESS_USER, .id = 0};
    list->names[list->n++] = (struct access_name){.kind = ACCESS_USER, .id = geteuid()};
}

int access_init(Access *a, const Config *c, Error *reterr) {
    *a = (Access){.n_accounts = c->n_accounts};
    for (int i = 0; i < _CONFIG_SERVICES; i++) {
        add_own(&a->allow[i]);
        if (add_names(&a->allow[i], c->access[i].allow, reterr) < 0) {
            error_prefix(reterr, "%s_allow", service_words[i]);
            return -EINVAL;
        }
        if (add_names(&a->deny[i], c->access[i].deny, reterr) < 0) {
            error_prefix(reterr, "%s_deny", service_words[i]);
            return -EINVAL;
        }
    }
    for (size_t i = 0; i < c->n_accounts; i++) {
        const struct config_account *account = &c->accounts[i];
        struct access_name *name = &a->accounts[i].name;

        a->accounts[i].account = account;
        name->kind = account->is_group ? ACCESS_GROUP : ACCESS_USER;
        if (find_id(account->name, account->is_group, &name->id, reterr) < 0) {
            error_prefix(reterr, "[%s %s]", account->is_group ? "group" : "user", account->name);
            return -EINVAL;
        }
    }
    return 0;
}

/* ---- peers ---- */

int access_read_peer(int fd, struct access_peer *ret) {
    struct ucred peer;
    socklen_t n = sizeof(peer), n_groups = sizeof(ret->groups) - sizeof(ret->groups[0]);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0)
        return -errno;
    ret->uid = peer.uid;
    ret->pid = peer.pid;
    ret->groups[0] = peer.gid;
    ret->n_groups = 1;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, ret->groups + 1, &n_groups) < 0)
        return -errno;
    ret->n_groups += n_groups / sizeof(ret->groups[0]);
    return 0;
}

static bool is_meant(const struct access_name *name, const struct access_peer *peer) {
    if (name->kind != ACCESS_GROUP)
        return name->kind == ACCESS_ALL || name->id == peer->uid;
    for (size_t i = 0; i < peer->n_groups; i++)
        if (peer->groups[i] == name->id)
            return true;
    return false;
}

static bool is_listed(const struct access_list *list, const struct access_peer *peer) {
    for (size_t i = 0; i < list->n; i++)
        if (is_meant(&list->names[i], peer))
            return true;
    return false;
}

unsigned access_services(const Access *a, const struct access_peer *peer) {
    unsigned services = 0;

    for (unsigned i = 0; i < _CONFIG_SERVICES; i++)
        if (is_listed(&a->allow[i], peer) && !is_listed(&a->deny[i], peer))
            services |= BIT(i);
    return services;
}

/* What sections of that kind say of one limit. False: nothing. */
static bool find_limit(const Access *a, const struct access_peer *peer, bool of_groups, int kind,
                       uint64_t *ret) {
    bool is_found = false;

    for (size_t i = 0; i < a->n_accounts; i++) {
        uint64_t limit = a->accounts[i].account->limits[kind];

        if (limit == CONFIG_UNSET || a->accounts[i].account->is_group != of_groups ||
            !is_meant(&a->accounts[i].name, peer))
            continue;
        *ret = is_found ? MAX(*ret, limit) : limit;
        is_found = true;
    }
    return is_found;
}

void access_fill_limits(const Access *a, const Config *c, const struct access_peer *peer,
                        uint64_t ret_max[_QUOTA_N]) {
    for (int i = 0; i < _QUOTA_N; i++) {
        ret_max[i] = c->limits[i];
        if (!find_limit(a, peer, false, i, &ret_max[i]))
            (void)find_limit(a, peer, true, i, &ret_max[i]);
    }
}
