// Memory for large outputs: recycled, on huge pages where the system has them.
//
// The C library gives every large block back to the system when it is freed, and a training step that allocates its
// gradients anew then waits for the system to zero their pages and map them: four times what writing them takes. So
// freed blocks are kept for the next step, up to a limit, as torch does on a GPU.
#pragma once

#include <stdint.h>

namespace mdn {

// At least this many bytes are worth a block of their own; the C library recycles what is smaller.
constexpr int64_t smallest_block = 1 << 20;

// Throws std::bad_alloc.
void* acquire_block(int64_t bytes);
// Any thread may release what another acquired.
void release_block(void* block);

// Whether freed blocks are kept at all: MDNKERNELS_CACHE_MB, the most that is kept, is 512 unless it says otherwise.
// Throws std::runtime_error where it is not a whole number.
bool blocks_are_kept();
int64_t kept_bytes();
// Gives all kept blocks back to the system.
void release_kept_blocks();

// Zeroes memory in parallel, past the caches where it is too large to be found there later.
void zero_memory(void* data, int64_t bytes);

}  // namespace mdn
