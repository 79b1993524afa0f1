#include "native.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#ifdef HAS_AVX_VNNI
#include <cpuid.h>
#endif
#ifdef HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "program.h"

enum { PHASES_PER_LAYER = 10, PHASES_OUTSIDE_LAYERS = 5 };
enum { MATRIX_PADDING_ROWS = 15 }; /* rows read, not used, behind the last */

struct Engine {
    const Model *model;
    Workspace space;
    Pool *pool;
};

static int max_int(int a, int b) { return a > b ? a : b; }

static void *allocate(int64_t count, int64_t size) {
    int64_t bytes = (count * size + 63) / 64 * 64;
    return aligned_alloc(64, (size_t)(bytes ? bytes : 64));
}

static int make_workspace(Workspace *s, const Model *m, int max_entries, int num_threads) {
    int64_t rows = m->max_rows, heads = (int64_t)m->num_heads * m->head_dim;
    int64_t qkv = heads + 2 * (int64_t)m->num_kv_heads * m->head_dim;
    int64_t k = max_int(m->hidden, max_int((int)heads, m->intermediate));
    int64_t fused = max_int((int)qkv, 2 * m->intermediate);
    int64_t scratch = (int64_t)num_threads * MAX_QUERY_BLOCK * (m->max_keys + PAGE);
    s->q = allocate((rows + MATRIX_PADDING_ROWS) * k, 1);
    s->scale = allocate(rows * k / GROUP, 4);
    s->offset = allocate(rows * k / GROUP, 4);
    s->sum = allocate(rows * k / HALF_GROUP, 4);
    s->narrow = allocate(rows * k, NARROW_BYTES);
    s->queries = allocate(rows * heads, NARROW_BYTES);
    s->shrunk = allocate((int64_t)max_entries * m->max_ranks, NARROW_BYTES);
    s->x = allocate(rows * m->hidden, 4);
    s->normed = allocate(rows * m->hidden, 4);
    s->fused = allocate(rows * fused, 4);
    s->attended = allocate(rows * heads, 4);
    s->scores = allocate(scratch, 4);
    s->probabilities = allocate(scratch, NARROW_BYTES);
    s->num_phases = m->num_layers * PHASES_PER_LAYER + PHASES_OUTSIDE_LAYERS;
    s->counters = allocate(s->num_phases, sizeof(PhaseCounters));
    return s->q && s->scale && s->offset && s->sum && s->narrow && s->queries && s->shrunk &&
           s->x && s->normed && s->fused && s->attended && s->scores && s->probabilities &&
           s->counters;
}

Engine *engine_new(const Model *model, int max_entries, int num_threads) {
    Engine *engine = calloc(1, sizeof(Engine));
    if (!engine) return 0;
    engine->model = model;
    engine->pool = pool_new(num_threads);
    if (engine->pool && make_workspace(&engine->space, model, max_entries, num_threads))
        return engine;
    int error = errno;
    engine_free(engine);
    errno = error;
    return 0;
}

void engine_free(Engine *engine) {
    Workspace *s = &engine->space;
    void *all[] = {s->x,      s->sum,           s->q,      s->scale,   s->offset,
                   s->narrow, s->queries,       s->shrunk, s->fused,   s->attended,
                   s->scores, s->probabilities, s->normed, s->counters};
    for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++) free(all[i]);
    if (engine->pool) pool_free(engine->pool);
    free(engine);
}

/* By level. */
static const Task RUN_STEP[] = {
    [PORTABLE] = run_step_portable,
#if defined(__x86_64__)
    [AVX2] = run_step_avx2,
    [AVX512_VNNI] = run_step_avx512_vnni,
    [AVX512_BF16] = run_step_avx512_bf16,
#endif
#ifdef HAS_AVX_VNNI
    [AVX_VNNI] = run_step_avx_vnni,
#endif
#ifdef HAS_AMX
    [AMX] = run_step_amx,
#endif
};

void engine_step(Engine *engine, const Step *step, int level) {
    Program program = {engine->model, step, &engine->space, engine->pool, 0};
    memset(engine->space.counters, 0, (size_t)engine->space.num_phases * sizeof(PhaseCounters));
    pool_run(engine->pool, RUN_STEP[level], &program);
}

#ifdef HAS_AVX_VNNI
static int has_avx_vnni(void) {
    enum { EAX_AVX_VNNI = 1 << 4 };
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & EAX_AVX_VNNI);
}
#else
static int has_avx_vnni(void) { return 0; }
#endif

/* Whether the processor has AMX and the operating system lets this process use it. */
#ifdef HAS_AMX
static int has_amx(void) {
    enum { EDX_AMX = 1 << 22 | 1 << 24 | 1 << 25 }; /* bf16, tiles, int8 */
    enum { REQUEST = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & EDX_AMX) != EDX_AMX) return 0;
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}
#else
static int has_amx(void) { return 0; }
#endif

#if defined(__x86_64__)
int native_has(int level) {
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int vnni = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    int bf16 = vnni && __builtin_cpu_supports("avx512bf16");
    switch (level) {
    case PORTABLE: return 1;
    case AVX2: return avx2;
    case AVX_VNNI: return avx2 && has_avx_vnni();
    case AVX512_VNNI: return vnni;
    case AVX512_BF16: return bf16;
    case AMX: return bf16 && has_amx();
    default: return 0;
    }
}
#else
int native_has(int level) { return level == PORTABLE; }
#endif

const char *native_sources(void) { return SOURCES; }
