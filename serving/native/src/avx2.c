#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define USE_AVX2
#include "forward.h"

void run_step_avx2(void *program, int thread) { run_step(program, thread); }
#endif
