/* For any processor; the compiler fits it to what it is told to compile for.
 *
 * Compiled once per instruction set, by vectors.h. Needs INLINE and bf16. Provides the contract of
 * vectors.h. */
#pragma once

enum { ROW_BLOCK = 4, STRIP8 = 1, STRIP4 = 1, UNROLLED = 1 };
enum { SHRINK_BLOCK = 4, SHRINK_TILES = 1, EXPAND_BLOCK = 4 };
enum { VECTOR_QUERIES = 4, SCORE_PAGES = 1, VALUE_VECTORS = 4 };

typedef float F16 __attribute__((vector_size(64)));
typedef int32_t I16 __attribute__((vector_size(64)));
typedef uint8_t B64 __attribute__((vector_size(64)));
typedef const int8_t *Fours;

INLINE F16 f_all(float x) { return x - (F16){}; }
INLINE F16 f_zero(void) { return (F16){}; }
INLINE F16 f_load(const float *p) {
    F16 x;
    memcpy(&x, p, 64);
    return x;
}
INLINE void f_store(float *p, F16 x) { memcpy(p, &x, 64); }
INLINE F16 f_add(F16 a, F16 b) { return a + b; }
INLINE F16 f_mul(F16 a, F16 b) { return a * b; }
INLINE F16 f_fma(F16 a, F16 b, F16 c) { return a * b + c; }
INLINE F16 f_choose(I16 mask, F16 then, F16 otherwise) {
    return (F16)(((I16)then & mask) | ((I16)otherwise & ~mask));
}
INLINE F16 f_max(F16 a, F16 b) { return f_choose(a > b, a, b); }
INLINE F16 f_abs(F16 a) { return f_choose(a < f_zero(), -a, a); }
INLINE F16 f_div(F16 a, F16 b) { return a / b; }
INLINE F16 f_of_int(I16 a) { return __builtin_convertvector(a, F16); }
INLINE F16 f_where_negative(F16 x, F16 then, F16 otherwise) {
    return f_choose(x < f_zero(), then, otherwise);
}
INLINE F16 f_round(F16 a) { /* to even; exact below 2^22 */
    F16 big = f_all(12582912.0f);
    return (a + big) - big;
}
INLINE float f_sum(F16 a) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a[i] += a[i + half];
    return a[0];
}
INLINE float f_top(F16 a) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a[i] = a[i] > a[i + half] ? a[i] : a[i + half];
    return a[0];
}
INLINE F16 f_scale2(F16 a, F16 n) { /* a * 2^n for whole n above -126; 0 below */
    I16 whole = __builtin_convertvector(n, I16);
    I16 bits = (whole + 127) << 23;
    return f_choose(whole < -126, f_zero(), a * (F16)bits);
}
INLINE F16 f_keep(F16 a, int first, int end, F16 other) {
    for (int i = 0; i < 16; i++)
        if (i < first || i >= end) a[i] = other[i];
    return a;
}
INLINE I16 i_all(int32_t x) { return x - (I16){}; }
INLINE B64 b_load(const uint8_t *p) {
    B64 x;
    memcpy(&x, p, 64);
    return x;
}
INLINE B64 b_low(B64 a) { return a & 15; }
INLINE B64 b_high(B64 a) { return a >> 4; }
INLINE Fours fours_of(const void *x) { return x; }
INLINE I16 dot4(I16 acc, B64 w, Fours x) {
    for (int i = 0; i < 16; i++)
        acc[i] += w[4 * i] * x[0] + w[4 * i + 1] * x[1] + w[4 * i + 2] * x[2] + w[4 * i + 3] * x[3];
    return acc;
}
INLINE float float_of_bf16(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
typedef float Narrow;
INLINE F16 dot2(F16 acc, const bf16 *w, const Narrow *x) {
    uint32_t pair[16];
    memcpy(pair, w, 64);
    I16 even, odd;
    for (int i = 0; i < 16; i++) {
        even[i] = (int32_t)(pair[i] << 16);
        odd[i] = (int32_t)(pair[i] & 0xffff0000u);
    }
    return acc + (F16)even * x[0] + (F16)odd * x[1];
}
INLINE F16 dot2_folded(F16 acc, const bf16 *w, const Narrow *x, int ranks) {
    for (int i = 0; i < 16; i++) {
        const Narrow *pair = x + i / ranks * 2;
        acc[i] = acc[i] + float_of_bf16(w[2 * i]) * pair[0] + float_of_bf16(w[2 * i + 1]) * pair[1];
    }
    return acc;
}
INLINE void store_bf16(bf16 *p, F16 x) { /* round to nearest even */
    for (int i = 0; i < 16; i++) {
        float value = x[i];
        uint32_t bits;
        memcpy(&bits, &value, 4);
        p[i] = (bf16)(value == value ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : 0x7fc0);
    }
}
INLINE F16 load_bf16(const bf16 *p) {
    F16 x;
    for (int i = 0; i < 16; i++) x[i] = float_of_bf16(p[i]);
    return x;
}
INLINE void store_narrow(Narrow *p, F16 x) {
    bf16 narrow[16];
    store_bf16(narrow, x);
    f_store(p, load_bf16(narrow));
}
INLINE F16 load_narrow(const Narrow *p) { return f_load(p); }
INLINE int32_t store_int8(int8_t *p, F16 x) {
    int32_t sum = 0;
    for (int i = 0; i < 16; i++) sum += p[i] = (int8_t)x[i];
    return sum;
}
INLINE void prefetch_near(const void *p) { __builtin_prefetch(p); }
INLINE void prefetch_far(const void *p) { __builtin_prefetch(p, 0, 2); }
