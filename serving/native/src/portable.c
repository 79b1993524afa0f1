#include "forward.h"

void run_step_portable(void *program, int thread) { run_step(program, thread); }
