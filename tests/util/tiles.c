/* AMX tiles in plain C. See tiles.h. */
#include "tests/util/tiles.h"

#include "tests/util/test.h"

#include <string.h>

#define N_TILES   8
#define ROWS_MAX  16
#define BYTES_MAX 64

/* What LDTILECFG reads. */
struct config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t n_rows[16];
};
_Static_assert(sizeof(struct config) == 64, "as the instruction wants it");

struct tile {
    int n_rows, row_bytes; /* both 0: not there */
    uint8_t bytes[ROWS_MAX][BYTES_MAX];
};

static _Thread_local struct tile tiles[N_TILES];
static _Thread_local bool configured;
static _Thread_local unsigned long n_dots;

/* TILES_CONFIGURED and a tile of the configuration, or #UD. */
static struct tile *tile_at(int i) {
    assert(configured && i >= 0 && i < N_TILES && tiles[i].n_rows > 0);
    return &tiles[i];
}

void tiles_release(void) {
    (void)memset(tiles, 0, sizeof(tiles));
    configured = false;
}

bool tiles_are_configured(void) {
    return configured;
}

unsigned long tiles_n_dots(void) {
    return n_dots;
}

/* #GP where the manual has it. A start row other than 0 is what an interrupted load leaves: no
 * program of ours sets one. */
void tiles_load_config(const void *config) {
    struct config c;

    (void)memcpy(&c, config, sizeof(c));
    tiles_release();
    assert(c.palette <= 1);
    if (c.palette == 0)
        return;
    assert(c.start_row == 0);
    for (size_t i = 0; i < sizeof(c.reserved); i++)
        assert(c.reserved[i] == 0);
    for (int i = 0; i < 16; i++) {
        assert(c.row_bytes[i] <= (i < N_TILES ? BYTES_MAX : 0));
        assert(c.n_rows[i] <= (i < N_TILES ? ROWS_MAX : 0));
        assert((c.row_bytes[i] == 0) == (c.n_rows[i] == 0));
    }
    for (int i = 0; i < N_TILES; i++) {
        tiles[i].n_rows = c.n_rows[i];
        tiles[i].row_bytes = c.row_bytes[i];
    }
    configured = true;
}

static void clear(struct tile *t) {
    (void)memset(t->bytes, 0, sizeof(t->bytes));
}

void tiles_zero(int tile) {
    clear(tile_at(tile));
}

void tiles_load(int to, const void *from, ptrdiff_t stride) {
    struct tile *t = tile_at(to);

    clear(t);
    for (int row = 0; row < t->n_rows; row++)
        (void)memcpy(t->bytes[row], (const uint8_t *)from + row * stride, (size_t)t->row_bytes);
}

void tiles_store(int from, void *to, ptrdiff_t stride) {
    const struct tile *t = tile_at(from);

    for (int row = 0; row < t->n_rows; row++)
        (void)memcpy((uint8_t *)to + row * stride, t->bytes[row], (size_t)t->row_bytes);
}

static int32_t number(uint8_t byte, bool is_signed) {
    return is_signed ? (int8_t)byte : byte;
}

/* One element's four products, added to it; the sum wraps. */
static void dot_bytes(uint8_t *sum, const uint8_t a[4], const uint8_t b[4], bool a_signed,
                      bool b_signed) {
    uint32_t s;

    (void)memcpy(&s, sum, sizeof(s));
    for (int i = 0; i < 4; i++)
        s += (uint32_t)(number(a[i], a_signed) * number(b[i], b_signed));
    (void)memcpy(sum, &s, sizeof(s));
}

void tiles_dot(int sums, int a, int b, bool a_signed, bool b_signed) {
    struct tile *c = tile_at(sums);
    const struct tile *l = tile_at(a), *r = tile_at(b);

    assert(sums != a && sums != b && a != b);
    assert(c->row_bytes % 4 == 0 && l->row_bytes % 4 == 0 && r->row_bytes % 4 == 0);
    assert(c->n_rows == l->n_rows && c->row_bytes == r->row_bytes && l->row_bytes / 4 == r->n_rows);
    n_dots++;
    for (int row = 0; row < c->n_rows; row++)
        for (int k = 0; k < r->n_rows; k++)
            for (int column = 0; column < c->row_bytes; column += 4)
                dot_bytes(&c->bytes[row][column], &l->bytes[row][4 * k], &r->bytes[k][column],
                          a_signed, b_signed);
}
