/* A compute pool of any size on CPUs and nodes that this machine need not have. */
#pragma once

#include "engine/engine.h"

/* Exactly n_threads, spread over n_nodes. Those whose CPU there isn't run where they like. */
GkPool *test_team(unsigned n_threads, unsigned n_nodes);
