#include "native.h"

#ifdef HAS_AVX_VNNI
#pragma GCC target("avx2,fma,avxvnni")
#define USE_AVX2
#define USE_AVX_VNNI
#include "forward.h"

void run_step_avx_vnni(void *program, int thread) { run_step(program, thread); }
#endif
