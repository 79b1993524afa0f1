/* One forward pass: the program that every thread of the pool runs, phase by phase. Within a phase
 * the threads take pieces of work from a counter; between phases they wait for each other.
 *
 * Compiled once per instruction set, with all headers that it includes but program.h, native.h,
 * pool.h and types.h: everything is static, so that each has its own. A `.c` file per instruction
 * set sets the compiler's target, defines what it may use, and includes this:
 *
 *     portable.c     nothing
 *     avx2.c         USE_AVX2
 *     avx_vnni.c     USE_AVX2, USE_AVX_VNNI
 *     avx512_vnni.c  USE_AVX512
 *     avx512_bf16.c  USE_AVX512, USE_BF16
 *     amx.c          USE_AVX512, USE_BF16, USE_AMX
 *
 * Provides run_step, which the file gives a name of its own. */
#pragma once

#include "attention.h"
#include "product.h"
#include "program.h"

enum { ROWS_PER_PIECE = 4, SHRINK_ROWS = 16, ATTENTION_ROWS = 16 };
enum { TILES_PER_PIECE = 6, ROWS_PER_PANEL = 128 };
_Static_assert(sizeof(Narrow) <= NARROW_BYTES, "the workspace has room for Narrow");
_Static_assert(QUERY_BLOCK <= MAX_QUERY_BLOCK, "the workspace has room for QUERY_BLOCK queries");

enum { MEMORY_BOUND_ROWS = 8, MAX_PREFETCH_ROWS = 64 };

/* The next piece of the current phase, or one that is past its end. */
INLINE int next_piece(Program *p) {
    return atomic_fetch_add(&p->space->counters[p->phase].count, 1);
}

INLINE void next_phase(Program *p) {
    pool_barrier(p->pool);
    p->phase++;
}

INLINE Activations activations(const Workspace *s, int k) {
    return (Activations){s->q, s->scale, s->offset, s->sum, s->narrow, k};
}

/* Pieces are a few rows: this thread's first one of a phase, and the one after `row`. One that is
 * past the last of the step ends the loop. */
INLINE int first_row(Program *p) { return next_piece(p) * ROWS_PER_PIECE; }

INLINE int next_row(Program *p, int row) {
    return (row + 1) % ROWS_PER_PIECE ? row + 1 : next_piece(p) * ROWS_PER_PIECE;
}

static void embed(Program *p) {
    const Model *model = p->model;
    int n = model->hidden;
    for (int row = first_row(p); row < p->step->num_rows; row = next_row(p, row)) {
        float *x = p->space->x + (int64_t)row * n;
        int64_t at = (int64_t)p->step->token_ids[row] * n;
        for (int i = 0; i < n; i += 16)
            f_store(x + i, model->embedding16 ? load_bf16(model->embedding16 + at + i)
                                              : f_load(model->embedding32 + at + i));
    }
    next_phase(p);
}

static void norm_and_quantize(Program *p, const float *weight) {
    const Model *model = p->model;
    int n = model->hidden;
    Activations to = activations(p->space, n);
    for (int row = first_row(p); row < p->step->num_rows; row = next_row(p, row)) {
        float *normed = p->space->normed + (int64_t)row * n;
        rms_norm(normed, p->space->x + (int64_t)row * n, weight, n, model->eps);
        quantize_row(&to, row, normed, p->step->num_adapters > 0);
    }
    next_phase(p);
}

static void quantize_rows(Program *p, const float *x, int n) {
    Activations to = activations(p->space, n);
    for (int row = first_row(p); row < p->step->num_rows; row = next_row(p, row))
        quantize_row(&to, row, x + (int64_t)row * n, p->step->num_adapters > 0);
    next_phase(p);
}

static void gate_and_quantize(Program *p) {
    int n = p->model->intermediate;
    Activations to = activations(p->space, n);
    for (int row = first_row(p); row < p->step->num_rows; row = next_row(p, row)) {
        float *gate = p->space->fused + (int64_t)row * 2 * n;
        gated(gate, gate + n, n);
        quantize_row(&to, row, gate, p->step->num_adapters > 0);
    }
    next_phase(p);
}

/* Pieces are a few tiles of a panel of rows, whose activations stay in the core's own cache. */
INLINE int pieces_across(const Linear *linear) {
    return (linear->n / TILE_N + TILES_PER_PIECE - 1) / TILES_PER_PIECE;
}

INLINE int num_tile_pieces(const Linear *linear, int num_rows) {
    return pieces_across(linear) * ((num_rows + ROWS_PER_PANEL - 1) / ROWS_PER_PANEL);
}

/* Tiles first to end of a product prefetch their share of the A matrices of a product that comes
 * later. */
static void add_shrinks(PrefetchList *prefetches, const Program *p, int layer, int index, int first,
                        int end, int num_tiles) {
    const Step *step = p->step;
    for (int g = 0; g < step->num_adapters; g++) {
        const LoraLinear *lora = step->adapters[g].linears + layer * LINEARS + index;
        int64_t k = p->model->layers[layer].linear[index].k;
        if (lora->a)
            add_share(prefetches, lora->a, k * lora->num_ranks * (int64_t)sizeof(bf16), first, end,
                      num_tiles);
    }
}

/* And of a layer's keys and values, by segments. */
static void add_pages(PrefetchList *prefetches, const Program *p, const Layer *layer, int first,
                      int end, int num_tiles) {
    const Step *step = p->step;
    int64_t bytes = 4 * (int64_t)p->model->num_kv_heads * p->model->head_dim * PAGE;
    int last = step->num_segments * end / num_tiles;
    for (int i = step->num_segments * first / num_tiles; i < last; i++) {
        const Segment *segment = step->segments + i;
        int num_keys = segment->position + segment->end - segment->start;
        for (int page = 0; page * PAGE < num_keys; page++)
            add_range(prefetches, page_of(p->model, layer, segment->pages[page], 0), bytes);
    }
}

/* What follows the product `index` of a layer: its tiles first to end prefetch their share of it.
 */
static void add_following(PrefetchList *prefetches, const Program *p, int layer, int index,
                          int first, int end, int num_tiles) {
    if (index == QKV) add_pages(prefetches, p, p->model->layers + layer, first, end, num_tiles);
    else if (index < DOWN) add_shrinks(prefetches, p, layer, index + 1, first, end, num_tiles);
    else if (layer + 1 < p->model->num_layers)
        add_shrinks(prefetches, p, layer + 1, QKV, first, end, num_tiles);
}

/* The strip that this thread takes when it has finished the one that ends at tile `end`, of a piece
 * that ends at `last`: behind that comes another thread's piece, if all take as long. */
static void add_next_strip(PrefetchList *prefetches, const Program *p, const Linear *linear,
                           int end, int last) {
    int num_tiles = linear->n / TILE_N;
    int from = end < last ? end : last + TILES_PER_PIECE * (pool_size(p->pool) - 1);
    int until = end < last ? last : min_int(from + TILES_PER_PIECE, num_tiles);
    if (from >= until) return;
    int64_t bytes = tile_bytes(linear);
    add_range(prefetches, linear->weight + from * bytes, tiles_from(linear, from, until) * bytes);
}

static void finish_piece(const Program *p, const Product *work, int piece, int num_rows) {
    const Linear *linear = work->linear;
    int num_tiles = linear->n / TILE_N, across = pieces_across(linear);
    int first = piece % across * TILES_PER_PIECE, row = piece / across * ROWS_PER_PANEL;
    int end = min_int(row + ROWS_PER_PANEL, num_rows);
    int last = min_int(first + TILES_PER_PIECE, num_tiles);
    int adds_following = num_rows <= MAX_PREFETCH_ROWS && work->index != HEAD;
    for (int tile = first, tiles; tile < last; tile += tiles) {
        tiles = tiles_from(linear, tile, last);
        PrefetchList prefetches;
        clear_prefetches(&prefetches);
        if (adds_following) add_expand_weights(&prefetches, work, tile, tiles);
        if (num_rows > MEMORY_BOUND_ROWS) /* with fewer, memory is all that is waited for */
            add_next_strip(&prefetches, p, linear, tile + tiles, last);
        if (adds_following)
            add_following(&prefetches, p, work->layer, work->index, tile, tile + tiles, num_tiles);
        finish_strip(work, tile, tiles, row, end, &prefetches);
    }
}

/* A piece of a shrink is SHRINK_ROWS rows and so many tiles of ranks. Ranks side by side share what
 * is loaded of x; a single adapter's few rows are shared out by their ranks. */
INLINE int shrink_tiles_per_piece(const Step *step, const LoraLinear *lora, int num_rows) {
    return step->num_adapters > 1 || num_rows > SHRINK_ROWS ? num_shrink_tiles(lora) : 1;
}

INLINE int num_shrinks(const Step *step, const LoraLinear *lora, const AdapterRows *adapter) {
    int rows = adapter->end - adapter->start, tiles = shrink_tiles_per_piece(step, lora, rows);
    return lora->a ? (rows + SHRINK_ROWS - 1) / SHRINK_ROWS * (num_shrink_tiles(lora) / tiles) : 0;
}

/* Shrinks are the first pieces, tiles the rest. A tile's adapters wait for all shrinks. */
static void product(Program *p, int layer, int index, float *y, int adds) {
    const Step *step = p->step;
    const Linear *linear = &p->model->layers[layer].linear[index];
    Activations x = activations(p->space, linear->k);
    PhaseCounters *counters = &p->space->counters[p->phase];
    Product work = {.linear = linear,
                    .adapters = step->adapters,
                    .num_adapters = step->num_adapters,
                    .layer = layer,
                    .index = index,
                    .x = &x,
                    .shrunk = p->space->shrunk,
                    .shrunk_stride = step->shrunk_stride,
                    .y = y,
                    .adds = adds,
                    .shrinks_done = &counters->done};
    int piece = next_piece(p);
    for (int g = 0; g < step->num_adapters; g++) {
        const AdapterRows *adapter = step->adapters + g;
        const LoraLinear *lora = lora_of(&work, adapter);
        int first = work.num_shrinks;
        int tiles = shrink_tiles_per_piece(step, lora, adapter->end - adapter->start);
        work.num_shrinks += num_shrinks(step, lora, adapter);
        for (; piece < work.num_shrinks; piece = next_piece(p)) {
            int across = num_shrink_tiles(lora) / tiles, number = piece - first;
            int row = adapter->start + number / across * SHRINK_ROWS;
            shrink(&work, adapter, row, min_int(row + SHRINK_ROWS, adapter->end),
                   number % across * tiles, tiles);
            atomic_fetch_add_explicit(&counters->done, 1, memory_order_release);
        }
    }
    int num_pieces = work.num_shrinks + num_tile_pieces(linear, step->num_rows);
    for (; piece < num_pieces; piece = next_piece(p))
        finish_piece(p, &work, piece - work.num_shrinks, step->num_rows);
    next_phase(p);
}

/* Pieces are a segment's rows that share a page: see place_row. */
static void place_keys(Program *p, const Layer *layer) {
    const Model *model = p->model;
    int width = (model->num_heads + 2 * model->num_kv_heads) * model->head_dim;
    int piece = next_piece(p), number = 0;
    for (int s = 0; s < p->step->num_segments; s++) {
        const Segment *segment = p->step->segments + s;
        for (int row = segment->start; row < segment->end; number++) {
            int end = row + PAGE - (segment->position + row - segment->start) % PAGE;
            end = end < segment->end ? end : segment->end;
            if (piece == number) {
                for (int r = row; r < end; r++)
                    place_row(model, layer, segment, r, p->space->fused + (int64_t)r * width,
                              (Narrow *)p->space->queries +
                                  (int64_t)r * model->num_heads * model->head_dim);
                piece = next_piece(p);
            }
            row = end;
        }
    }
    next_phase(p);
}

static void attention(Program *p, const Layer *layer, int thread) {
    const Model *model = p->model;
    Workspace *s = p->space;
    int64_t scratch = (int64_t)thread * QUERY_BLOCK * (model->max_keys + PAGE);
    int piece = next_piece(p), number = 0;
    for (int i = p->step->num_segments - 1; i >= 0; i--) { /* prompts, which are last, first */
        const Segment *segment = p->step->segments + i;
        for (int row = segment->start; row < segment->end; row += ATTENTION_ROWS) {
            int end = row + ATTENTION_ROWS < segment->end ? row + ATTENTION_ROWS : segment->end;
            for (int head = 0; head < model->num_kv_heads; head++, number++)
                if (piece == number) {
                    attend(model, layer, segment, head, row, end, s->queries, s->attended,
                           s->scores + scratch, (Narrow *)s->probabilities + scratch);
                    piece = next_piece(p);
                }
        }
    }
    next_phase(p);
}

static void logits(Program *p) {
    const Model *model = p->model;
    const Step *step = p->step;
    int n = model->hidden;
    Activations x = activations(p->space, n);
    for (int piece; (piece = next_piece(p)) < step->num_wanted;) {
        float *normed = p->space->normed + (int64_t)piece * n;
        rms_norm(normed, p->space->x + (int64_t)step->wanted[piece] * n, model->norm, n,
                 model->eps);
        quantize_row(&x, piece, normed, 0);
    }
    next_phase(p);
    Product work = {.linear = &model->head, .index = HEAD, .x = &x, .y = step->logits};
    for (int piece; (piece = next_piece(p)) < num_tile_pieces(&model->head, step->num_wanted);)
        finish_piece(p, &work, piece, step->num_wanted);
    next_phase(p);
    for (int piece; (piece = next_piece(p)) < step->num_wanted;)
        step->best[piece] = best_of(step->logits + (int64_t)piece * model->head.n, model->vocab);
    next_phase(p);
}

static void run_step(void *context, int thread) {
    Program program = *(Program *)context, *p = &program;
    const Model *model = p->model;
    Workspace *s = p->space;
    int width = model->num_heads * model->head_dim;
    matrix_begin();
    embed(p);
    for (int l = 0; l < model->num_layers; l++) {
        const Layer *layer = model->layers + l;
        norm_and_quantize(p, layer->attention_norm);
        product(p, l, QKV, s->fused, 0);
        place_keys(p, layer);
        attention(p, layer, thread);
        quantize_rows(p, s->attended, width);
        product(p, l, O, p->space->x, 1);
        norm_and_quantize(p, layer->mlp_norm);
        product(p, l, GATE_UP, s->fused, 0);
        gate_and_quantize(p);
        product(p, l, DOWN, p->space->x, 1);
    }
    if (p->step->num_wanted) logits(p);
    matrix_end();
}
