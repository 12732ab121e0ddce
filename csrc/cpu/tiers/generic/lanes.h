// The lanes of the level being compiled: what the products with panels are written over.
#pragma once

#if defined(__AVX512F__)
#include "cpu/tiers/avx512/lanes.h"
#elif defined(__AVX2__)
#include "cpu/tiers/avx2/lanes.h"
#else
#include "cpu/tiers/neon/lanes.h"
#endif
