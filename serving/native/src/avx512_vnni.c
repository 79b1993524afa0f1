#if defined(__x86_64__)
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#define USE_AVX512
#include "forward.h"

void run_step_avx512_vnni(void *program, int thread) { run_step(program, thread); }
#endif
