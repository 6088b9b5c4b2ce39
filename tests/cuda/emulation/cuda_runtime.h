// CUDA's header of this name, emulated.
#include "cuda_emulation.h"
