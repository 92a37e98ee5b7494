// Runs kernels on the CPU and watches them. What a kernel sees of it is in cuda_on_cpu.h.
//
// Blocks run one after another; a kernel in which one block waits for another would never end. The threads of a block
// are fibers of one CPU thread: each runs until it has to wait, at a barrier or for the other lanes of its warp, and a
// thread that never waits costs a function call. Seed 0 runs blocks and threads in their natural order, any other
// seed in an order of its own.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "vector_types.h"

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace cuda_on_cpu {

// A mistake of a kernel or of its launch; says which kernel, block and thread. Torch hands errors to Python as
// RuntimeError: by how it begins __init__.py knows this one.
struct Error : std::runtime_error {
  explicit Error(const std::string& message) : std::runtime_error("KernelError: " + message) {}
};

// A line of a kernel's source, for messages. As a function's last parameters CUDA_ON_CPU_CALLER are where it is called
// from, which CUDA_ON_CPU_PLACE puts together.
struct Place {
  const char* file;
  int line;
};
#define CUDA_ON_CPU_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define CUDA_ON_CPU_PLACE \
  ::cuda_on_cpu::Place { file, line }

enum class Access : unsigned char { read, write, atomic };

// How often a launch moved what in global memory. An access is one instruction of one warp; its sectors are the
// different 32-byte pieces of memory that its lanes touch.
struct Traffic {
  uint64_t accesses = 0;
  uint64_t sectors = 0;
  uint64_t bytes = 0;             // that the lanes asked for, each lane's counted
  uint64_t distinct_sectors = 0;  // of the whole launch, each counted once
};

struct LaunchRecord {
  std::string kernel;
  dim3 grid, block;
  size_t shared_bytes = 0;  // dynamic
  Traffic read, write, atomic;
};

struct Options {
  uint64_t seed = 0;
  bool count = true;  // sectors; all checks are always on
};

// Options of the launches to come. Their records are kept until they are taken.
void configure(const Options& options);
std::vector<LaunchRecord> take_records();

// A launch that is about to run.
struct Arrival {
  const char* symbol;  // of the kernel, mangled; null where it has none
  dim3 grid, block;
  size_t shared_bytes;                           // dynamic
  const std::vector<unsigned char>& parameters;  // as they lie in a GPU's memory of constants
};

// `watcher` is shown each launch before it runs; true: it has run the launch in its own way. Null: nobody watches.
using Watcher = std::function<bool(const Arrival&)>;
void watch(Watcher watcher);

struct Range;

// Memory that kernels may access while this object lives; stores go to a writeable one alone.
class Buffer {
 public:
  Buffer(const void* begin, size_t bytes, bool writeable);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

 private:
  Range* range_ = nullptr;
};

// Whether all of it lies in one writeable buffer.
bool is_writeable(const void* begin, size_t bytes);

[[noreturn]] void fail(const std::string& message, Place place);

// An access of `bytes` bytes at an address that must be a multiple of them, in a buffer. The place it is called from
// identifies the instruction: it must be inlined into the kernel up to this call.
void access_global(const void* address, unsigned bytes, Access access, Place place);

enum class BlockVote { none, count, all, any };
int wait_for_block(BlockVote vote, int predicate, Place place);

enum class WarpOperation {
  sync,
  shuffle,
  ballot,
  all,
  any,
  match_any,
  add,
  minimum,
  maximum,
  minimum_signed,
  maximum_signed,
  bit_and,
  bit_or,
  bit_xor,
};
// What the lanes of `mask` give one another; for a shuffle, the value of the lane `source`.
uint64_t exchange_in_warp(WarpOperation operation, unsigned mask, uint64_t value, int source, Place place);

int lane_of_thread();

// Who wrote an element last: a block's number, one for each block that ever ran, and 0 for nobody.
inline uint64_t current_block = 0;

struct DynamicSharedMemory {
  unsigned char* bytes;
  uint64_t* writers;  // of each byte
  size_t size;
};
DynamicSharedMemory dynamic_shared_memory();

// As cudaFuncSetAttribute does: without it no launch of a kernel may have more than 48 KiB of dynamic shared memory.
void allow_shared_bytes(const void* kernel, size_t bytes);

struct Kernel {
  const void* address;
  void (*run)(const void* arguments);
  const void* arguments;
  const std::vector<unsigned char>* parameters;
};
void run_grid(const Kernel& kernel, dim3 grid, dim3 block, size_t dynamic_shared_bytes);

// kernel<<<grid, block, dynamic_shared_bytes>>>(arguments...), with the options that were configured.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_shared_bytes,
            Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "a kernel is launched with all of its arguments");
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
  } call{kernel, std::tuple<Parameters...>(static_cast<Arguments&&>(arguments)...)};
  const auto run = [](const void* pointer) {
    const Call& call = *static_cast<const Call*>(pointer);
    std::apply(call.kernel, call.arguments);
  };
  std::vector<unsigned char> parameters;
  const auto append = [&](const auto& argument) {
    parameters.resize((parameters.size() + alignof(decltype(argument)) - 1) / alignof(decltype(argument)) *
                      alignof(decltype(argument)));
    const auto* bytes = reinterpret_cast<const unsigned char*>(&argument);
    parameters.insert(parameters.end(), bytes, bytes + sizeof argument);
  };
  std::apply([&](const auto&... each) { (append(each), ...); }, call.arguments);
  run_grid({reinterpret_cast<const void*>(kernel), run, &call, &parameters}, grid, block, dynamic_shared_bytes);
}

}  // namespace cuda_on_cpu
