/* The product of a block of rows with one tile's weights, where sums of four products are one instruction. */
#pragma once

#include "stream.h"

enum { ROW_BLOCK = 8 };

INLINE void block8(Stream *from, const Activations *x, int row, int rows, const float *scale,
                   float *out) {
    BlockRows of = rows_from(x, row);
    const uint8_t *w = from->weight;
    F16 sum[ROW_BLOCK];
    for (int i = 0; i < rows; i++) sum[i] = f_zero();
    for (int g = 0; g < of.num_groups; g++) {
        I16 whole[ROW_BLOCK];
        fetch_group(from);
        for (int i = 0; i < rows; i++) whole[i] = i_all(of.offset[i * of.num_groups + g]);
#pragma GCC unroll 4
        for (int step = 0; step < GROUP / 4; step++, w += 64)
            for (int i = 0; i < rows; i++)
                whole[i] = dot4(whole[i], b_load(w), of.q + (int64_t)i * x->k + g * GROUP + step * 4);
        for (int i = 0; i < rows; i++)
            sum[i] = f_fma(f_of_int(whole[i]), f_all(of.scale[i * of.num_groups + g]), sum[i]);
    }
    for (int i = 0; i < rows; i++) f_store(out + i * TILE, f_mul(sum[i], f_load(scale)));
}

INLINE void block4(Stream *from, const Activations *x, int row, int rows, float *out) {
    BlockRows of = rows_from(x, row);
    const uint8_t *w = from->weight;
    F16 sum[ROW_BLOCK];
    for (int i = 0; i < rows; i++) sum[i] = f_zero();
    for (int half = 0; half < 2 * of.num_groups; half++) {
        I16 whole[ROW_BLOCK];
        if (half % 2 == 0) fetch_group(from);
        F16 step = load_bf16((const bf16 *)w), lowest = load_bf16((const bf16 *)w + TILE);
        w += 64;
        for (int i = 0; i < rows; i++) whole[i] = i_all(0);
#pragma GCC unroll 4
        for (int at = 0; at < HALF_GROUP; at += 8, w += 64) {
            B64 both = b_load(w), low = b_low(both), high = b_high(both);
            for (int i = 0; i < rows; i++) {
                const int8_t *eight = of.q + (int64_t)i * x->k + half * HALF_GROUP + at;
                whole[i] = dot4(dot4(whole[i], low, eight), high, eight + 4);
            }
        }
        for (int i = 0; i < rows; i++) {
            F16 scaled = f_mul(f_of_int(whole[i]), f_all(of.scale[i * of.num_groups + half / 2]));
            sum[i] = f_fma(scaled, step, sum[i]);
            sum[i] = f_fma(f_all(of.sum[i * 2 * of.num_groups + half]), lowest, sum[i]);
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
