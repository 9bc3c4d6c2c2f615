/* grokd: command line, configuration, and the daemon's life from setup to teardown. */
#include "base/alloc.h"
#include "daemon/access.h"
#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/log.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

/* Owner: main. */
struct arguments {
    const char *config, *socket;
    const char *models[CONFIG_MODELS_MAX];
    size_t n_models;
    bool check_only, print_keys;
};

static const char usage[] =
    "Usage: grokd [OPTION]...\n"
    "Serves language models over a Unix socket.\n"
    "\n"
    "  -c, --config FILE      read this instead of " GROKD_CONFIG_FILE "\n"
    "  -s, --socket PATH      listen here, whatever the configuration says\n"
    "  -m, --model NAME=PATH  serve this GGUF file as well (may be repeated)\n"
    "      --check-config     look for mistakes in the configuration, then exit\n"
    "      --print-config     print every key with its default and meaning, then exit\n"
    "  -h, --help             print this, then exit\n"
    "      --version          print the version, then exit\n"
    "\n"
    "Without a model, grokd serves the small demo model that comes with it.\n"
    "See grokd(8) and grokd.conf(5).\n";

enum { PARSE_GO_ON = -1 };

/* Returns PARSE_GO_ON, or the status to exit with. */
static int parse_arguments(struct arguments *a, int argc, char **argv) {
    enum { OPTION_CHECK = 256, OPTION_PRINT, OPTION_VERSION };
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'},
        {"socket", required_argument, NULL, 's'},
        {"model", required_argument, NULL, 'm'},
        {"check-config", no_argument, NULL, OPTION_CHECK},
        {"print-config", no_argument, NULL, OPTION_PRINT},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, OPTION_VERSION},
        {NULL, 0, NULL, 0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "c:s:m:h", options, NULL)) != -1)
        switch (option) {
        case 'c':
            a->config = optarg;
            break;
        case 's':
            a->socket = optarg;
            break;
        case 'm':
            if (a->n_models == CONFIG_MODELS_MAX) {
                log_error("there are more than %d models", CONFIG_MODELS_MAX);
                return 2;
            }
            a->models[a->n_models++] = optarg;
            break;
        case OPTION_CHECK:
            a->check_only = true;
            break;
        case OPTION_PRINT:
            a->print_keys = true;
            break;
        case 'h':
            return fputs(usage, stdout) < 0 || fflush(stdout) != 0;
        case OPTION_VERSION:
            return puts("grokd " GROKD_VERSION) < 0 || fflush(stdout) != 0;
        default:
            return 2; /* getopt_long() has said why */
        }
    if (optind == argc)
        return PARSE_GO_ON;
    log_error("'%s' is not an option; try --help", argv[optind]);
    return 2;
}

static int check_names(const Config *c) {
    Access *access = alloc_new(Access);
    Error error = ERROR_INIT;
    int r = -ENOMEM;

    if (access)
        r = access_init(access, c, &error);
    if (r < 0)
        log_error("%s", error.text[0] ? error.text : "out of memory");
    free(access);
    return r;
}

static int configure(Config *c, const struct arguments *a) {
    Error error = ERROR_INIT;
    char *socket;
    int r = config_load(c, a->config ? a->config : GROKD_CONFIG_FILE, a->config != NULL);

    for (size_t i = 0; i < a->n_models; i++)
        if (config_add_model(c, a->models[i], &error) < 0) {
            log_error("%s", error.text);
            r = -EINVAL;
        }
    if (config_check(c) < 0)
        r = -EINVAL;
    r = MIN(r, check_names(c));
    if (a->socket) {
        socket = alloc_string(a->socket);
        if (!socket)
            return -ENOMEM;
        free(c->socket);
        c->socket = socket;
    }
    return r;
}

static int serve(const Config *c) {
    Daemon *d = alloc_new(Daemon);
    int status = 1;

    if (!d)
        log_error("out of memory");
    else if (daemon_init(d, c) == 0) {
        status = daemon_run(d);
        daemon_deinit(d);
    }
    free(d);
    return status;
}

int main(int argc, char **argv) {
    struct arguments a = {.config = NULL};
    Config c;
    int status;

    log_init();
    status = parse_arguments(&a, argc, argv);
    if (status != PARSE_GO_ON)
        return status;
    if (a.print_keys) {
        config_print_keys(stdout);
        return fflush(stdout) != 0;
    }
    if (config_init(&c) < 0) {
        log_error("out of memory");
        return 1;
    }
    if (configure(&c, &a) < 0)
        status = 1;
    else if (a.check_only)
        status = 0;
    else {
        log_set_level((enum log_level)c.log_level);
        status = serve(&c);
    }
    config_deinit(&c);
    return status;
}
