/* The product of some rows with one tile of a base's weights. Meanwhile the next tile's weights are
 * fetched, a share with each block of rows: its first block would wait for memory. */
#pragma once

#include "ahead.h"

enum { ROW_BLOCK = 8, MATRIX_ROWS = 16, LEAST_MATRIX_ROWS = 4 };
enum { LINES8 = GROUP / 4, LINES4 = 10 }; /* of 64 bytes, that a tile has a group */

typedef struct {
    const uint8_t *weight, *next;
    Ahead *ahead;
    int lines, lines_ahead; /* to be fetched a group: of the next tile, of what lies further ahead */
} Stream;

INLINE void fetch_group(Stream *s) {
    for (int line = 0; line < s->lines; line++, s->next += LINE) fetch(s->next);
    if (s->lines_ahead) fetch_some(s->ahead, s->lines_ahead);
}

INLINE void block8(Stream *from, const Activations *x, int row, int rows, const float *scale,
                   float *out) {
    int num_groups = x->k / GROUP;
    const uint8_t *w = from->weight;
    const int8_t *q = x->q + (int64_t)row * x->k;
    const float *s = x->scale + (int64_t)row * num_groups;
    const int32_t *offset = x->offset + (int64_t)row * num_groups;
    F16 sum[ROW_BLOCK];
    for (int i = 0; i < rows; i++) sum[i] = f_zero();
    for (int g = 0; g < num_groups; g++) {
        I16 whole[ROW_BLOCK];
        fetch_group(from);
        for (int i = 0; i < rows; i++) whole[i] = i_all(offset[i * num_groups + g]);
#pragma GCC unroll 4
        for (int step = 0; step < GROUP / 4; step++, w += 64)
            for (int i = 0; i < rows; i++)
                whole[i] = dot4(whole[i], b_load(w), q + (int64_t)i * x->k + g * GROUP + step * 4);
        for (int i = 0; i < rows; i++)
            sum[i] = f_fma(f_of_int(whole[i]), f_all(s[i * num_groups + g]), sum[i]);
    }
    for (int i = 0; i < rows; i++) f_store(out + i * TILE, f_mul(sum[i], f_load(scale)));
}

#ifdef USE_AMX
/* As block8, up to MATRIX_ROWS rows: the same sums of integers, added up in the same order. Rows behind
 * the last are computed and left out; `q` has room for them. */
INLINE void matrix_block8(Stream *from, const Activations *x, int row, int rows, const float *scale,
                          float *out) {
    int num_groups = x->k / GROUP;
    const uint8_t *w = from->weight;
    const int8_t *q = x->q + (int64_t)row * x->k;
    const float *s = x->scale + (int64_t)row * num_groups;
    const int32_t *offset = x->offset + (int64_t)row * num_groups;
    F16 sum[MATRIX_ROWS];
    for (int i = 0; i < rows; i++) sum[i] = f_zero();
    for (int g = 0; g < num_groups; g++, w += GROUP * TILE, q += GROUP) {
        int32_t whole[MATRIX_ROWS * TILE] __attribute__((aligned(64)));
        fetch_group(from);
        matrix_product(whole, q, x->k, w);
        for (int i = 0; i < rows; i++) {
            I16 exact = i_add(i_load(whole + i * TILE), i_all(offset[i * num_groups + g]));
            sum[i] = f_fma(f_of_int(exact), f_all(s[i * num_groups + g]), sum[i]);
        }
    }
    for (int i = 0; i < rows; i++) f_store(out + i * TILE, f_mul(sum[i], f_load(scale)));
}
#endif

INLINE void block4(Stream *from, const Activations *x, int row, int rows, float *out) {
    int num_groups = x->k / GROUP;
    const uint8_t *w = from->weight;
    const int8_t *q = x->q + (int64_t)row * x->k;
    const float *s = x->scale + (int64_t)row * num_groups;
    const float *lift = x->sum + (int64_t)row * num_groups * 2;
    F16 sum[ROW_BLOCK];
    for (int i = 0; i < rows; i++) sum[i] = f_zero();
    for (int half = 0; half < 2 * num_groups; half++) {
        I16 whole[ROW_BLOCK];
        if (half % 2 == 0) fetch_group(from);
        F16 step = load_bf16((const bf16 *)w), lowest = load_bf16((const bf16 *)w + TILE);
        w += 64;
        for (int i = 0; i < rows; i++) whole[i] = i_all(0);
#pragma GCC unroll 4
        for (int at = 0; at < HALF_GROUP; at += 8, w += 64) {
            B64 both = b_load(w), low = b_low(both), high = b_high(both);
            for (int i = 0; i < rows; i++) {
                const int8_t *eight = q + (int64_t)i * x->k + half * HALF_GROUP + at;
                whole[i] = dot4(dot4(whole[i], low, eight), high, eight + 4);
            }
        }
        for (int i = 0; i < rows; i++) {
            F16 scaled = f_mul(f_of_int(whole[i]), f_all(s[i * num_groups + half / 2]));
            sum[i] = f_fma(scaled, step, sum[i]);
            sum[i] = f_fma(f_all(lift[i * 2 * num_groups + half]), lowest, sum[i]);
        }
    }
    for (int i = 0; i < rows; i++) f_store(out + i * TILE, sum[i]);
}

/* The loops over rows are unrolled where their number is known. */
#define FOR_EACH_COUNT(rows, call) \
    switch (rows) {                \
    case 1: call(1); break;        \
    case 2: call(2); break;        \
    case 3: call(3); break;        \
    case 4: call(4); break;        \
    case 5: call(5); break;        \
    case 6: call(6); break;        \
    case 7: call(7); break;        \
    default: call(8);              \
    }

/* out (rows, TILE) = the product of `rows` rows with one tile's weights. */
static void tile_product(const Linear *linear, int tile, const Activations *x, int row, int rows,
                         float *out, Ahead *ahead) {
    int lines = linear->bits == 4 ? LINES4 : LINES8, num_groups = linear->k / GROUP;
    int64_t bytes = (int64_t)lines * LINE * num_groups;
    int block = HAS_MATRIX && linear->bits == 8 ? MATRIX_ROWS : ROW_BLOCK;
    int num_blocks = (rows + block - 1) / block, num_visits = num_blocks * num_groups;
    Stream from;
    from.weight = linear->weight + tile * bytes;
    from.next = from.weight + bytes;
    from.ahead = ahead;
    from.lines = (lines + num_blocks - 1) / num_blocks;
    from.lines_ahead = (ahead->num - ahead->at + num_visits - 1) / num_visits;
    const float *scale = linear->scale + tile * TILE;
    for (; rows > 0; row += block, rows -= block, out += block * TILE) {
        if (linear->bits == 4) {
#define CALL(n) block4(&from, x, row, n, out)
            FOR_EACH_COUNT(rows, CALL)
#undef CALL
            continue;
        }
#ifdef USE_AMX
        if (rows >= MATRIX_ROWS) {
            matrix_block8(&from, x, row, MATRIX_ROWS, scale, out);
            continue;
        }
        if (rows >= LEAST_MATRIX_ROWS) {
            matrix_block8(&from, x, row, rows, scale, out);
            continue;
        }
#endif
#define CALL(n) block8(&from, x, row, n, scale, out)
        FOR_EACH_COUNT(rows, CALL)
#undef CALL
    }
}
