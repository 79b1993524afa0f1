#include "native.h"

#ifdef HAS_AMX
#pragma GCC target(                                                                                \
    "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,amx-tile,amx-int8,amx-bf16")
#define USE_AVX512
#define USE_BF16
#define USE_AMX
#include "forward.h"

void run_step_amx(void *program, int thread) { run_step(program, thread); }
#endif
