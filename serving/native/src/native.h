/* The library's C interface, loaded by `serving/native/library.py`. */
#pragma once

#include "pool.h"
#include "types.h"

typedef struct {
    _Alignas(64) _Atomic int count; /* pieces handed out */
    _Atomic int done;               /* shrinks finished */
} PhaseCounters;

/* What the kernels of every instruction set keep to, so that one workspace serves them all. */
enum { NARROW_BYTES = 4, MAX_QUERY_BLOCK = 16 };

/* Room for one step of at most max_rows rows; made once. */
typedef struct {
    int8_t *q;
    float *scale;
    int32_t *offset;
    /* Narrow, which instruction sets have each their own of. */
    void *narrow, *queries, *shrunk, *probabilities;
    float *x;     /* (rows, hidden): what the layers add to */
    float *fused; /* (rows, n) of qkv or gate_up */
    float *sum, *normed, *attended, *scores;
    PhaseCounters *counters;
    int num_phases;
} Workspace;

typedef struct Engine Engine;

/* Null, with the reason in errno, when memory or one of the threads is not to be had. The model and
 * all it points to must outlive the engine. */
Engine *engine_new(const Model *model, int max_entries, int num_threads);
void engine_free(Engine *engine);
/* Instruction sets in rising speed; AVX_VNNI is AVX-VNNI beside AVX2, AMX all of AVX-512's and it.
 * The products of the base are the same on all, to the bit; adapters and attention are rounded in
 * other places. */
enum { PORTABLE, AVX2, AVX_VNNI, AVX512_VNNI, AVX512_BF16, AMX };
/* Whether this processor, its system and the compiler of this library have a level. A level's
 * neighbours below may be missing. */
int native_has(int level);
/* Runs a step on the kernels of a level that is there. */
void engine_step(Engine *engine, const Step *step, int level);
/* The digest of the sources that this library was compiled of: see serving/native/sources.py. */
const char *native_sources(void);

/* Compilers before these do not know AVX-VNNI and AMX; Linux gives a process AMX's tile
 * registers on request. */
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define HAS_AVX_VNNI
#ifdef __linux__
#define HAS_AMX
#endif
#endif

void run_step_portable(void *program, int thread);
void run_step_avx2(void *program, int thread);
void run_step_avx_vnni(void *program, int thread);
void run_step_avx512_vnni(void *program, int thread);
void run_step_avx512_bf16(void *program, int thread);
void run_step_amx(void *program, int thread);
