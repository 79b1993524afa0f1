/* What a step's threads share: kernels of every instruction set are given this. */
#pragma once

#include "native.h"

typedef struct {
    const Model *model;
    const Step *step;
    Workspace *space;
    Pool *pool;
    int phase;
} Program;
