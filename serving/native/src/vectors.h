/* Sixteen lanes, once with AVX-512 (VNNI, and BF16 where the processor has it) and once in portable C that
 * the compiler fits to whatever it is told to compile for. Included once per instruction set. */
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "types.h"

#define INLINE static inline __attribute__((always_inline))

#ifdef USE_AVX512
#include <immintrin.h>

typedef __m512 F16;
typedef __m512i I16;
typedef __m512i B64;
typedef int32_t __attribute__((may_alias, aligned(1))) Four;

INLINE F16 f_zero(void) { return _mm512_setzero_ps(); }
INLINE F16 f_all(float x) { return _mm512_set1_ps(x); }
INLINE F16 f_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void f_store(float *p, F16 x) { _mm512_storeu_ps(p, x); }
INLINE F16 f_add(F16 a, F16 b) { return _mm512_add_ps(a, b); }
INLINE F16 f_mul(F16 a, F16 b) { return _mm512_mul_ps(a, b); }
INLINE F16 f_fma(F16 a, F16 b, F16 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE F16 f_max(F16 a, F16 b) { return _mm512_max_ps(a, b); }
INLINE F16 f_abs(F16 a) { return _mm512_abs_ps(a); }
INLINE float f_sum(F16 a) { return _mm512_reduce_add_ps(a); }
INLINE float f_top(F16 a) { return _mm512_reduce_max_ps(a); }
INLINE F16 f_round(F16 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT); }
INLINE F16 f_div(F16 a, F16 b) { return _mm512_div_ps(a, b); }
INLINE F16 f_scale2(F16 a, F16 n) { return _mm512_scalef_ps(a, n); }
INLINE F16 f_of_int(I16 a) { return _mm512_cvtepi32_ps(a); }
INLINE F16 f_where_negative(F16 x, F16 then, F16 otherwise) {
    return _mm512_mask_mov_ps(otherwise, _mm512_cmp_ps_mask(x, f_zero(), _CMP_LT_OQ), then);
}
/* Lanes first <= lane < end keep their value, the others become `other`. */
INLINE F16 f_keep(F16 a, int first, int end, F16 other) {
    uint32_t below_end = end >= 16 ? 0xffffu : end <= 0 ? 0 : (1u << end) - 1;
    uint32_t below_first = first >= 16 ? 0xffffu : first <= 0 ? 0 : (1u << first) - 1;
    return _mm512_mask_mov_ps(other, (__mmask16)(below_end & ~below_first), a);
}
INLINE I16 i_all(int32_t x) { return _mm512_set1_epi32(x); }
/* 64 unsigned bytes; the low and the high halves of 64 bytes. */
INLINE B64 b_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE B64 b_low(B64 a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
INLINE B64 b_high(B64 a) { return b_low(_mm512_srli_epi16(a, 4)); }
/* acc + sum of 4 products: unsigned weights times the 4 signed bytes at x. */
INLINE I16 dot4(I16 acc, B64 weights, const int8_t *x) {
    /* The compiler would broadcast through a general register, which takes twice as long. */
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(weights), "m"(*(const Four *)x));
    return acc;
}
#ifdef USE_BF16
/* acc + sum of 2 products: bf16 pairs (16 lanes) times the pair at x. */
INLINE F16 dot2(F16 acc, const bf16 *w, const bf16 *x) {
    I16 weights = _mm512_loadu_si512(w);
    asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(weights), "m"(*(const Four *)x));
    return acc;
}
INLINE void store_bf16(bf16 *p, F16 x) {
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(x));
}
#else
INLINE F16 dot2(F16 acc, const bf16 *w, const bf16 *x) {
    I16 weights = _mm512_loadu_si512(w), pair = _mm512_set1_epi32(*(const Four *)x);
    I16 odd = _mm512_set1_epi32((int)0xffff0000);
    acc = f_fma((F16)_mm512_slli_epi32(weights, 16), (F16)_mm512_slli_epi32(pair, 16), acc);
    return f_fma((F16)_mm512_and_si512(weights, odd), (F16)_mm512_and_si512(pair, odd), acc);
}
INLINE void store_bf16(bf16 *p, F16 x) { /* round to nearest even */
    I16 bits = (I16)x, last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    I16 near = _mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
    __mmask16 is_number = _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q);
    near = _mm512_mask_mov_epi32(_mm512_set1_epi32(0x7fc00000), is_number, near);
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(near, 16)));
}
#endif
INLINE F16 load_bf16(const bf16 *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
/* Whole numbers of at most 127 as signed bytes; their sum. */
INLINE int32_t store_int8(int8_t *p, F16 x) {
    __m512i whole = _mm512_cvtps_epi32(x);
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(whole));
    return _mm512_reduce_add_epi32(whole);
}
INLINE void fetch(const void *p) { _mm_prefetch(p, _MM_HINT_T0); }
INLINE void fetch_far(const void *p) { _mm_prefetch(p, _MM_HINT_T1); }

#ifdef USE_AMX
INLINE I16 i_load(const int32_t *p) { return _mm512_load_si512(p); }
INLINE I16 i_add(I16 a, I16 b) { return _mm512_add_epi32(a, b); }
/* A thread's tiles are 16 rows of 64 bytes, but for number 6, sixteen weights of keys a row, and number
 * 7, the values of sixteen keys. */
INLINE void matrix_begin(void) {
    struct {
        uint8_t palette, start, zero[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1,
               .row_bytes = {64, 64, 64, 64, 64, 64, 32, 64},
               .rows = {16, 16, 16, 16, 16, 16, 16, 8}};
    _tile_loadconfig(&shape);
}
INLINE void matrix_end(void) { _tile_release(); }
/* sums (16, 16) = 16 rows of 64 signed bytes, `stride` bytes apart, times [64 / 4][16][4] unsigned. */
INLINE void matrix_product(int32_t *sums, const int8_t *x, int64_t stride, const uint8_t *weights) {
    _tile_zero(0);
    _tile_loadd(1, x, stride);
    _tile_loadd(2, weights, 64);
    _tile_dpbsud(0, 1, 2);
    _tile_stored(0, sums, 64);
}
#endif

#else

typedef float F16 __attribute__((vector_size(64)));
typedef int32_t I16 __attribute__((vector_size(64)));
typedef uint8_t B64 __attribute__((vector_size(64)));

INLINE F16 f_all(float x) { return x - (F16){}; }
INLINE F16 f_zero(void) { return (F16){}; }
INLINE F16 f_load(const float *p) { F16 x; memcpy(&x, p, 64); return x; }
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
INLINE B64 b_load(const uint8_t *p) { B64 x; memcpy(&x, p, 64); return x; }
INLINE B64 b_low(B64 a) { return a & 15; }
INLINE B64 b_high(B64 a) { return a >> 4; }
INLINE I16 dot4(I16 acc, B64 w, const int8_t *x) {
    for (int i = 0; i < 16; i++)
        acc[i] += w[4 * i] * x[0] + w[4 * i + 1] * x[1] + w[4 * i + 2] * x[2] + w[4 * i + 3] * x[3];
    return acc;
}
INLINE float wide(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
INLINE F16 dot2(F16 acc, const bf16 *w, const bf16 *x) {
    uint32_t pair[16];
    memcpy(pair, w, 64);
    I16 even, odd;
    for (int i = 0; i < 16; i++) even[i] = (int32_t)(pair[i] << 16), odd[i] = (int32_t)(pair[i] & 0xffff0000u);
    return acc + (F16)even * wide(x[0]) + (F16)odd * wide(x[1]);
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
    for (int i = 0; i < 16; i++) x[i] = wide(p[i]);
    return x;
}
INLINE int32_t store_int8(int8_t *p, F16 x) {
    int32_t sum = 0;
    for (int i = 0; i < 16; i++) sum += p[i] = (int8_t)x[i];
    return sum;
}
INLINE void fetch(const void *p) { __builtin_prefetch(p); }
INLINE void fetch_far(const void *p) { __builtin_prefetch(p, 0, 2); }
#endif

#ifdef USE_AMX
enum { HAS_MATRIX = 1 };
#else
enum { HAS_MATRIX = 0 };
INLINE void matrix_begin(void) {}
INLINE void matrix_end(void) {}
#endif

/* e^x for x <= 0, to 2 ulp: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]. */
INLINE F16 f_exp(F16 x) {
    F16 n = f_round(f_mul(f_max(x, f_all(-87.0f)), f_all(1.44269504f)));
    F16 r = f_fma(n, f_all(-0.693359375f), f_max(x, f_all(-87.0f)));
    r = f_fma(n, f_all(2.12194440e-4f), r);
    F16 p = f_fma(f_all(1.9875691500e-4f), r, f_all(1.3981999507e-3f));
    p = f_fma(p, r, f_all(8.3334519073e-3f));
    p = f_fma(p, r, f_all(4.1665795894e-2f));
    p = f_fma(p, r, f_all(1.6666665459e-1f));
    p = f_fma(p, r, f_all(5.0000001201e-1f));
    p = f_fma(p, f_mul(r, r), f_add(r, f_all(1.0f)));
    return f_scale2(p, n);
}
