/* What Python and the kernels share: plain structs and their constants. `serving/native/layout.py`
 * has the same; a test compares the two, field by field.
 *
 * Bytes are little-endian. A tile is TILE_N outputs of a linear layer, a group is GROUP input
 * features that share an activation scale. Every row's arithmetic has one fixed order, whatever
 * rows share the step.
 */
#pragma once

#include <stdint.h>

enum { TILE_N = 16, GROUP = 64, HALF_GROUP = 32, PAGE = 16, MAX_PARTS = 3, LINEARS = 4 };
enum { HALF_GROUP_BYTES = 5 * 64 }; /* of a tile with weights of 4 bits */
enum { QKV, O, GATE_UP, DOWN, HEAD };

typedef uint16_t bf16;

/* Weights of 8 bits: [n / TILE_N][k / 4][TILE_N][4], each + 128, times `scale` of its output.
 * Weights of 4 bits: [n / TILE_N][k / HALF_GROUP] of a scale and a minimum (bf16 [TILE_N] each) and
 * [4][TILE_N][4] bytes, low halves before high ones: a weight is scale * number + minimum. */
typedef struct {
    const uint8_t *weight;
    const float *scale;          /* (n), or null with 4 bits */
    const float *bias;           /* (n) or null */
    int32_t bits;                /* 8 or 4 */
    int32_t k, n;                /* multiples of GROUP and of TILE_N */
    int32_t part_end[MAX_PARTS]; /* in tiles: where each of the parts side by side ends */
    int32_t num_parts;
} Linear;

typedef struct {
    /* [num_ranks / TILE_N][k / 2][TILE_N][2] and the rest, or null: this layer is not adapted */
    const bf16 *a;
    const bf16 *b;                 /* by part: [tiles of the part][num_pairs][TILE_N][2] */
    const float *magnitude;        /* (n), DoRA's scale of each output, or null */
    int64_t b_start[MAX_PARTS];    /* in elements */
    int32_t rank_start[MAX_PARTS]; /* where the part's ranks stand among all of the layer's */
    int32_t num_pairs[MAX_PARTS];  /* half of the part's (even) rank; 0: not adapted */
    /* All parts' ranks side by side. Behind whole tiles 4 or 8 ranks may be left: these rest ranks
     * stand as [k / 2 / folds][folds][rest][2], so that folds * rest = TILE_N. */
    int32_t num_ranks;
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
    int32_t max_ranks; /* of a LoraLinear */
    int32_t vocab;     /* head.n is this, rounded up to whole tiles */
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
    const LoraLinear *linears; /* [num_layers * LINEARS] */
    float scale;
    int32_t start, end;
    int32_t first_entry; /* where the first row's shrunk activations stand */
} AdapterRows;

/* Consecutive tokens of one sequence from `position` on. */
typedef struct {
    const int32_t *pages;
    int32_t start, end, position;
} Segment;

typedef struct {
    const int32_t *token_ids; /* (num_rows) */
    const Segment *segments;
    const AdapterRows *adapters; /* those of one row apply in their order here */
    const int32_t *wanted;       /* rows whose logits are asked for */
    float *logits;               /* (num_wanted, head.n) */
    int32_t *best;               /* (num_wanted): the likeliest token, the first of equals */
    int32_t num_rows, num_segments, num_adapters, num_wanted;
    int32_t shrunk_stride; /* the most ranks of a LoraLinear, in whole tiles */
} Step;
