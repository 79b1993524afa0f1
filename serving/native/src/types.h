/* What Python and the kernels share: plain structs, laid out alike in `serving/native/layout.py`.
 *
 * Bytes are little-endian. "tile" is 16 output columns; "group" is 64 input features that share an
 * activation scale. Every row's arithmetic has one fixed order, whatever rows share the step.
 */
#pragma once

#include <stdint.h>

enum { TILE = 16, GROUP = 64, HALF_GROUP = 32, PAGE = 16, MAX_PARTS = 3, LINEARS = 4 };
enum { HALF_BYTES4 = 5 * 64 }; /* that a half group of a tile takes with weights of 4 bits */
enum { QKV, O, GATE_UP, DOWN, HEAD };

typedef uint16_t bf16;

/* Weights of 8 bits: [n / TILE][k / 4][TILE][4], each + 128, times `scale` of its output.
 * Weights of 4 bits: [n / TILE][k / HALF_GROUP] of a step and a lowest value (bf16 [TILE] each) and
 * [4][TILE][4] bytes, low halves before high ones: a weight is step * number + lowest. */
typedef struct {
    const uint8_t *weight;
    const float *scale;          /* (n), or null with 4 bits */
    const float *bias;           /* (n) or null */
    int32_t bits;                /* 8 or 4 */
    int32_t k, n;                /* multiples of GROUP and of TILE */
    int32_t part_end[MAX_PARTS]; /* in tiles: where each of the parts side by side ends */
    int32_t num_parts;
} Linear;

typedef struct {
    /* [width / TILE][k / 2][TILE][2] and the rest, or null: this layer is not adapted */
    const bf16 *a;
    const bf16 *b;                 /* by part: [tiles of the part][num_pairs][TILE][2] */
    const float *magnitude;        /* (n), DoRA's scale of each output, or null */
    int64_t b_start[MAX_PARTS];    /* in elements */
    int32_t rank_start[MAX_PARTS]; /* where the part's ranks stand among all of the layer's */
    int32_t num_pairs[MAX_PARTS];  /* half of the part's (even) rank; 0: not adapted */
    /* All ranks side by side. Behind whole TILEs 4 or 8 ranks may be left: these rest ranks stand
     * as [k / 2 / folds][folds][rest][2], so that folds * rest = TILE. */
    int32_t width;
} LoraLinear;

typedef struct {
    const float *attention_norm, *mlp_norm; /* (hidden) */
    const float *q_norm, *k_norm;           /* (head_dim) or null */
    Linear linear[LINEARS];
    /* [pages][kv heads][2][head_dim * PAGE]: K as [d / 2][PAGE][2], V as [PAGE / 2][d][2] */
    bf16 *cache;
    int32_t window; /* keys a query sees at most, itself included; 0: all */
} Layer;

typedef struct {
    int32_t hidden, num_heads, num_kv_heads, head_dim, num_layers, intermediate, max_rows, max_keys;
    int32_t max_width; /* of LoraLinear */
    int32_t vocab;     /* head.n is this, rounded up to a TILE */
    float eps;
    const bf16 *embedding16; /* (vocab, hidden), or null: it is float */
    const float *embedding32;
    const float *rotary; /* [positions][2][head_dim / 2]: cos, sin */
    const Layer *layers;
    const float *norm; /* (hidden) */
    Linear head;
} Model;

/* Consecutive rows that one adapter answers. */
typedef struct {
    const LoraLinear *adapter; /* [num_layers * LINEARS] */
    float scale;
    int32_t start, end;
    int32_t low; /* where the first row's shrunk activations stand */
} LoraGroup;

/* Consecutive tokens of one sequence from `position` on. */
typedef struct {
    const int32_t *pages;
    int32_t start, end, position;
} Segment;

typedef struct {
    const int32_t *token_ids; /* (num_rows) */
    const Segment *segments;
    const LoraGroup *groups; /* a row's groups apply in their order here */
    const int32_t *wanted;   /* rows whose logits are asked for */
    float *logits;           /* (num_wanted, head.n) */
    int32_t *best;           /* (num_wanted): the likeliest token, the first of equals */
    int32_t num_rows, num_segments, num_groups, num_wanted;
    int32_t low_width; /* the widest LoraLinear of all groups */
} Step;
