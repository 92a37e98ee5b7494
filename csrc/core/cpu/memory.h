// Memory for large outputs: recycled, on huge pages where the system has them.
//
// The C library gives every large block back to the system when it is freed. A training step that allocates its
// gradients anew then waits for the system to zero their pages and map them, which takes four times as long as writing
// them. So freed blocks are kept for the next step, up to a limit, as torch does on a GPU.
#pragma once

#include <stdint.h>

namespace mdn {

// The fewest bytes that are worth a block of their own. The C library recycles what is smaller.
constexpr int64_t smallest_block = 1 << 20;

// Gives a block of at least so many bytes. Throws std::bad_alloc.
void* acquire_block(int64_t bytes);
// Frees a block. Any thread may free what another acquired.
void release_block(void* block);

// Whether freed blocks are kept at all. MDNKERNELS_CACHE_MB is the most that is kept, 512 where it is not set. Throws
// std::runtime_error where it is not a whole number.
bool blocks_are_kept();
// The bytes of all blocks that are kept now.
int64_t kept_bytes();
// Gives all kept blocks back to the system.
void release_kept_blocks();

// Zeroes memory in parallel, past the caches where it is too large to be found there later.
void zero_memory(void* data, int64_t bytes);

}  // namespace mdn
