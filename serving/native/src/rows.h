/* What is done row by row: norms, quantization to int8, the gated activation.
 *
 * Compiled once per instruction set. Needs vectors.h. Provides Activations and quantize_row,
 * rms_norm, gated, best_of; and for products of few rows DISPATCH, min_int, STRIP_ROWS, out_of. */
#pragma once

#include "vectors.h"

INLINE int min_int(int a, int b) { return a < b ? a : b; }

/* Makes the call with a constant for `n`, which is the lesser of `number` and `most`, so that loops
 * up to n are unrolled and their sums stay in registers: C has no templates. `most` is a constant,
 * at most 8. */
#define DISPATCH(n, number, most, call)                                                            \
    switch (min_int(number, most)) {                                                               \
    case 1: DISPATCH_CALL(n, 1, most, call) break;                                                 \
    case 2: DISPATCH_CALL(n, 2, most, call) break;                                                 \
    case 3: DISPATCH_CALL(n, 3, most, call) break;                                                 \
    case 4: DISPATCH_CALL(n, 4, most, call) break;                                                 \
    case 5: DISPATCH_CALL(n, 5, most, call) break;                                                 \
    case 6: DISPATCH_CALL(n, 6, most, call) break;                                                 \
    case 7: DISPATCH_CALL(n, 7, most, call) break;                                                 \
    default: DISPATCH_CALL(n, 8, most, call)                                                       \
    }
#define DISPATCH_CALL(n, number, most, call)                                                       \
    {                                                                                              \
        const int n = min_int(number, most);                                                       \
        call;                                                                                      \
    }

/* A row's activations as the products want them. */
typedef struct {
    int8_t *q;       /* (rows, k) */
    float *scale;    /* (rows, k / GROUP) */
    int32_t *offset; /* (rows, k / GROUP): -128 times the sum of q, for weights stored + 128 */
    float *sum; /* (rows, k / HALF_GROUP): the sum of what q stands for, for weights of 4 bits */
    Narrow *narrow; /* (rows, k): for the adapters */
    int32_t k;      /* of the current product; also the stride */
} Activations;

enum { STRIP_ROWS = 64 }; /* of a strip's products */

/* Where a row's sums with a tile of the strip stand. */
INLINE float *out_of(float *out, int row, int tile) {
    return out + (tile * STRIP_ROWS + row) * TILE_N;
}

/* Symmetric int8 with one scale a group: q = round(x / s), s = max |x| / 127. */
INLINE void quantize_row(const Activations *to, int row, const float *x, int with_narrow) {
    int num_groups = to->k / GROUP;
    int8_t *q = to->q + (int64_t)row * to->k;
    Narrow *narrow = to->narrow + (int64_t)row * to->k;
    for (int g = 0; g < num_groups; g++, x += GROUP, q += GROUP, narrow += GROUP) {
        F16 lanes[4], top = f_zero();
        for (int i = 0; i < 4; i++) {
            lanes[i] = f_load(x + 16 * i);
            top = f_max(top, f_abs(lanes[i]));
            if (with_narrow) store_narrow(narrow + 16 * i, lanes[i]);
        }
        float scale = f_top(top) / 127.0f;
        F16 inverse = f_all(scale > 0 ? 1.0f / scale : 0.0f);
        int32_t sum[2] = {0, 0};
        for (int i = 0; i < 4; i++)
            sum[i / 2] += store_int8(q + 16 * i, f_round(f_mul(lanes[i], inverse)));
        int64_t at = (int64_t)row * num_groups + g;
        to->scale[at] = scale;
        to->offset[at] = -128 * (sum[0] + sum[1]);
        to->sum[2 * at] = scale * (float)sum[0];
        to->sum[2 * at + 1] = scale * (float)sum[1];
    }
}

/* x / rms(x) * weight (Zhang and Sennrich 2019); n is a multiple of 16. In place is allowed. */
INLINE void rms_norm(float *to, const float *x, const float *weight, int n, float eps) {
    F16 sum = f_zero();
    for (int i = 0; i < n; i += 16) {
        F16 v = f_load(x + i);
        sum = f_fma(v, v, sum);
    }
    F16 inverse = f_all(1.0f / sqrtf(f_sum(sum) / (float)n + eps));
    for (int i = 0; i < n; i += 16)
        f_store(to + i, f_mul(f_mul(f_load(x + i), inverse), f_load(weight + i)));
}

/* silu(gate) * up, into gate. */
INLINE void gated(float *gate, const float *up, int n) {
    F16 one = f_all(1.0f);
    for (int i = 0; i < n; i += 16) {
        F16 x = f_load(gate + i);
        F16 e = f_exp(f_mul(f_abs(x), f_all(-1.0f))); /* sigmoid from e^-|x|, which is at most 1 */
        F16 positive = f_div(one, f_add(one, e));
        F16 negative = f_div(e, f_add(one, e));
        F16 sigmoid = f_where_negative(x, negative, positive);
        f_store(gate + i, f_mul(f_mul(x, sigmoid), f_load(up + i)));
    }
}

/* The index of the greatest of n >= 1 numbers, the first of equals. */
INLINE int32_t best_of(const float *logits, int n) {
    F16 top = f_all(-INFINITY);
    int at = 0;
    for (; at + 16 <= n; at += 16) top = f_max(top, f_load(logits + at));
    float best = f_top(top);
    for (; at < n; at++) best = logits[at] > best ? logits[at] : best;
    for (int i = 0; i < n; i++)
        if (logits[i] == best) return i;
    return 0; /* all are NaN */
}
