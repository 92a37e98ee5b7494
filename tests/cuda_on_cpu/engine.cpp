#include "engine.h"

#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <unordered_map>

#include "buffers.h"
#include "fibers.h"
#include "kernel_names.h"
#include "traffic.h"

namespace cuda_on_cpu {
namespace {

constexpr size_t most_shared_bytes = 227 * 1024;   // of a block, on the newest GPUs
constexpr size_t common_shared_bytes = 48 * 1024;  // of a kernel that was not allowed more

// Thrown in a kernel's thread, caught where its fiber began.
struct Failure {
  std::string message;
};

std::string text(const char* format_name, uint3 at) {
  return std::string(format_name) + " (" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " +
         std::to_string(at.z) + ")";
}

std::string text(Place place) {
  const char* name = strrchr(place.file, '/');
  return std::string(name == nullptr ? place.file : name + 1) + ":" + std::to_string(place.line);
}

std::string hexadecimal(uint64_t value) {
  char digits[32];
  snprintf(digits, sizeof digits, "0x%llx", static_cast<unsigned long long>(value));
  return digits;
}

const char* name_of(WarpOperation operation) {
  static const char* const names[] = {
      "__syncwarp",        "__shfl_sync",       "__ballot_sync",     "__all_sync",        "__any_sync",
      "__match_any_sync",  "__reduce_add_sync", "__reduce_min_sync", "__reduce_max_sync", "__reduce_min_sync",
      "__reduce_max_sync", "__reduce_and_sync", "__reduce_or_sync",  "__reduce_xor_sync",
  };
  return names[static_cast<int>(operation)];
}

const char* name_of(BlockVote vote) {
  static const char* const names[] = {"__syncthreads", "__syncthreads_count", "__syncthreads_and", "__syncthreads_or"};
  return names[static_cast<int>(vote)];
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 + 0x243f6a8885a308d3) {}
  uint32_t below(uint32_t limit) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<uint32_t>((state_ >> 32) * limit >> 32);
  }

 private:
  uint64_t state_;
};

enum class State : unsigned char { ready, running, at_barrier, in_warp_operation, finished };

struct Thread {
  uint3 index;
  int id;
  State state;
  Fiber* fiber;  // on whose stack it began; null before it began
  Place place;   // where it waits
  // Of a barrier.
  BlockVote vote;
  int predicate;
  // Of a warp operation.
  WarpOperation operation;
  unsigned mask;
  int source;
  uint64_t value, result;

  int lane() const { return id % warpSize; }
  int warp() const { return id / warpSize; }
};

// A worker is a fiber that runs threads, one after another, until one of them has to wait; then that thread keeps the
// worker's stack until it goes on, and another worker runs the others.
class Engine {
 public:
  Options options;
  std::vector<LaunchRecord> records;

  void run(const Kernel& kernel, dim3 grid, dim3 block, size_t shared_bytes);

  int wait_for_block(BlockVote vote, int predicate, Place place);
  uint64_t exchange_in_warp(WarpOperation operation, unsigned mask, uint64_t value, int source, Place place);
  void count(const void* instruction, uintptr_t address, unsigned bytes, Access access, Range& range) {
    if (options.count) counter_.count(instruction, current->warp(), current->lane(), address, bytes, access, range);
  }
  DynamicSharedMemory dynamic_shared_memory() {
    return {shared_.empty() ? nullptr : reinterpret_cast<unsigned char*>(shared_.data()), shared_writers_.data(),
            shared_bytes_};
  }

  Thread* current = nullptr;  // null outside kernels
  std::string describe(const Thread& thread) const {
    return name_ + ": " + text("block", blockIdx) + ", " + text("thread", thread.index);
  }

 private:
  void begin_block(uint3 index);
  void run_block();
  void end_block();
  [[noreturn]] void work();
  static void worker_main();
  Thread* pick();
  void make_ready(Thread* thread);
  void suspend();
  void resume(Thread* thread, Fiber* from);
  void finish(Thread* thread);
  void record_failure(const std::string& message);
  void release_barrier();
  void complete(WarpOperation operation, unsigned mask, Thread* first);
  std::string describe_stall() const;
  Fiber* idle_worker();

  std::string name_;
  Kernel kernel_;
  Random random_{0};
  std::vector<Thread> threads_;
  std::vector<Thread*> ready_;  // a ring
  uint32_t head_ = 0, tail_ = 0;
  int live_ = 0, at_barrier_ = 0, barrier_result_ = 0;
  unsigned waiting_lanes_[32];  // of each warp, those in a warp operation

  Fiber launcher_;
  std::vector<std::unique_ptr<Fiber>> workers_;
  std::vector<Fiber*> idle_;
  Fiber* running_ = nullptr;
  Thread* assigned_ = nullptr;  // what an idle worker that is switched to begins with
  bool failed_ = false;
  std::string failure_;

  std::vector<uint4> shared_;
  std::vector<uint64_t> shared_writers_;
  size_t shared_bytes_ = 0;

  TrafficCounter counter_;
};

Engine& engine() {
  static Engine* const engine = new Engine;  // never destroyed: fibers stay suspended at exit
  return *engine;
}

Watcher& current_watcher() {
  static Watcher* const watcher = new Watcher;  // never destroyed: it may hold an object of an interpreter that is gone
  return *watcher;
}

// Of each kernel that was allowed more than the common number.
std::unordered_map<const void*, size_t>& allowed_shared_bytes() {
  static std::unordered_map<const void*, size_t> bytes;
  return bytes;
}

void Engine::run(const Kernel& kernel, dim3 grid, dim3 block, size_t shared_bytes) {
  static std::unordered_map<const void*, std::string> names;
  std::string& name = names[kernel.address];
  if (name.empty()) name = kernel_name(kernel.address);
  name_ = name;
  if (current != nullptr) throw Error(name_ + ": launched from within a kernel");
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads < 1 || threads > 1024 || block.x > 1024 || block.y > 1024 || block.z > 64) {
    throw Error(name_ + ": " + text("a block of", {block.x, block.y, block.z}) + " threads cannot be launched");
  }
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
    throw Error(name_ + ": " + text("a grid of", {grid.x, grid.y, grid.z}) + " blocks cannot be launched");
  }
  if (shared_bytes > most_shared_bytes) {
    throw Error(name_ + ": " + std::to_string(shared_bytes) +
                " bytes of dynamic shared memory are more than a GPU has");
  }
  if (shared_bytes > common_shared_bytes && shared_bytes > allowed_shared_bytes()[kernel.address]) {
    throw Error(name_ + ": " + std::to_string(shared_bytes) +
                " bytes of dynamic shared memory are more than cudaFuncSetAttribute allowed it");
  }

  kernel_ = kernel;
  gridDim = grid;
  blockDim = block;
  random_ = Random(options.seed);
  shared_bytes_ = shared_bytes;
  if (shared_.size() * sizeof(uint4) < shared_bytes) shared_.resize((shared_bytes + sizeof(uint4) - 1) / sizeof(uint4));
  if (shared_writers_.size() < shared_bytes) shared_writers_.resize(shared_bytes);
  threads_.resize(threads);
  size_t ring = 1;
  while (ring < threads) ring *= 2;
  ready_.resize(ring);
  for (uint32_t id = 0; id < threads; ++id) {
    threads_[id].id = static_cast<int>(id);
    threads_[id].index = {id % block.x, id / block.x % block.y, id / block.x / block.y};
  }
  records.emplace_back();
  records.back().kernel = name_;
  records.back().grid = grid;
  records.back().block = block;
  records.back().shared_bytes = shared_bytes;
  if (options.count) counter_.begin_launch(&records.back(), static_cast<int>((threads + warpSize - 1) / warpSize));

  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  std::vector<uint32_t> order;
  if (options.seed != 0) {
    order.resize(blocks);
    for (uint64_t i = 0; i < blocks; ++i) order[i] = static_cast<uint32_t>(i);
    for (uint64_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[random_.below(static_cast<uint32_t>(i))]);
  }
  failed_ = false;
  for (uint64_t i = 0; i < blocks && !failed_; ++i) {
    const uint32_t id = order.empty() ? static_cast<uint32_t>(i) : order[i];
    begin_block({id % grid.x, id / grid.x % grid.y, id / grid.x / grid.y});
    run_block();
    end_block();
  }
  if (failed_) throw Error(failure_);
}

void Engine::begin_block(uint3 index) {
  blockIdx = index;
  ++current_block;
  live_ = static_cast<int>(threads_.size());
  at_barrier_ = 0;
  head_ = tail_ = 0;
  memset(waiting_lanes_, 0, sizeof waiting_lanes_);
  for (Thread& thread : threads_) {
    thread.fiber = nullptr;
    make_ready(&thread);
  }
}

void Engine::run_block() {
  running_ = idle_worker();
  Fiber::change(launcher_, *running_);
  current = nullptr;
}

void Engine::end_block() {
  counter_.end_block();
  if (!failed_) return;
  // Threads that were still waiting are dropped where they stand.
  idle_.clear();
  for (const std::unique_ptr<Fiber>& worker : workers_) {
    worker->begin(&worker_main);
    idle_.push_back(worker.get());
  }
}

Fiber* Engine::idle_worker() {
  if (idle_.empty()) {
    workers_.push_back(std::make_unique<Fiber>());
    workers_.back()->begin(&worker_main);
    return workers_.back().get();
  }
  Fiber* worker = idle_.back();
  idle_.pop_back();
  return worker;
}

void Engine::worker_main() {
  Fiber::entered();
  engine().work();
}

void Engine::work() {
  Fiber* const self = running_;
  for (;;) {
    Thread* thread = assigned_ != nullptr ? assigned_ : pick();
    assigned_ = nullptr;
    if (thread == nullptr) {
      if (!failed_ && live_ > 0) record_failure(describe_stall());
      idle_.push_back(self);
      Fiber::change(*self, launcher_);
    } else if (thread->fiber != nullptr) {
      idle_.push_back(self);
      resume(thread, self);
    } else {
      thread->fiber = self;
      thread->state = State::running;
      current = thread;
      threadIdx = thread->index;
      try {
        kernel_.run(kernel_.arguments);
      } catch (const Failure& failure) {
        record_failure(failure.message);
      }
      finish(thread);
    }
  }
}

void Engine::record_failure(const std::string& message) {
  if (failed_) return;
  failed_ = true;
  failure_ = message;
}

Thread* Engine::pick() {
  if (failed_ || head_ == tail_) return nullptr;
  const uint32_t wrap = static_cast<uint32_t>(ready_.size()) - 1;
  if (options.seed != 0) std::swap(ready_[head_ & wrap], ready_[(head_ + random_.below(tail_ - head_)) & wrap]);
  return ready_[head_++ & wrap];
}

void Engine::make_ready(Thread* thread) {
  thread->state = State::ready;
  ready_[tail_++ & (ready_.size() - 1)] = thread;
}

// Goes on with a thread that waited on a worker's stack.
void Engine::resume(Thread* thread, Fiber* from) {
  running_ = thread->fiber;
  Fiber::change(*from, *running_);
}

// The running thread waits; returns when it is ready and its turn has come.
void Engine::suspend() {
  Thread* const self = current;
  Thread* const next = pick();
  if (next == nullptr) throw Failure{describe_stall()};
  if (next != self) {
    if (next->fiber == nullptr) {
      assigned_ = next;
      running_ = idle_worker();
      Fiber::change(*self->fiber, *running_);
    } else {
      resume(next, self->fiber);
    }
  }
  self->state = State::running;
  current = self;
  threadIdx = self->index;
}

void Engine::finish(Thread* thread) {
  thread->state = State::finished;
  --live_;
  if (live_ > 0 && at_barrier_ == live_) release_barrier();
}

int Engine::wait_for_block(BlockVote vote, int predicate, Place place) {
  Thread* const self = current;
  self->state = State::at_barrier;
  self->vote = vote;
  self->predicate = predicate;
  self->place = place;
  if (++at_barrier_ == live_) release_barrier();
  suspend();
  return barrier_result_;
}

void Engine::release_barrier() {
  const Thread* first = nullptr;
  int count = 0;
  for (const Thread& thread : threads_) {
    if (thread.state != State::at_barrier) continue;
    if (first == nullptr) first = &thread;
    if (thread.vote != first->vote || thread.place.line != first->place.line ||
        thread.place.file != first->place.file) {
      record_failure(describe(thread) + ": waits in " + name_of(thread.vote) + " at " + text(thread.place) + " while " +
                     text("thread", first->index) + " waits in " + name_of(first->vote) + " at " + text(first->place));
      return;
    }
    count += thread.predicate != 0;
  }
  switch (first->vote) {
    case BlockVote::none:
    case BlockVote::count:
      barrier_result_ = count;
      break;
    case BlockVote::all:
      barrier_result_ = count == at_barrier_;
      break;
    case BlockVote::any:
      barrier_result_ = count > 0;
      break;
  }
  at_barrier_ = 0;
  for (Thread& thread : threads_) {
    if (thread.state == State::at_barrier) make_ready(&thread);
  }
}

uint64_t Engine::exchange_in_warp(WarpOperation operation, unsigned mask, uint64_t value, int source, Place place) {
  Thread* const self = current;
  const int lane = self->lane();
  if ((mask >> lane & 1) == 0) {
    fail(std::string(name_of(operation)) + " with mask " + hexadecimal(mask) + ", which does not name its own lane " +
             std::to_string(lane),
         place);
  }
  if (operation == WarpOperation::shuffle && (mask >> source & 1) == 0) {
    fail("__shfl_sync reads from lane " + std::to_string(source) + ", which its mask " + hexadecimal(mask) +
             " does not name",
         place);
  }
  self->state = State::in_warp_operation;
  self->place = place;
  self->operation = operation;
  self->mask = mask;
  self->source = source;
  self->value = value;

  Thread* const first = &threads_[self->id - lane];
  unsigned& waiting = waiting_lanes_[self->warp()];
  waiting |= 1u << lane;
  bool complete_now = (waiting & mask) == mask;
  for (unsigned rest = mask; rest != 0 && complete_now; rest &= rest - 1) {
    const Thread& other = first[__builtin_ctz(rest)];
    complete_now = other.operation == operation && other.mask == mask;
  }
  if (complete_now) {
    waiting &= ~mask;
    complete(operation, mask, first);
  }
  suspend();
  return self->result;
}

template <class Step>
uint64_t folded(unsigned mask, const Thread* first, Step step) {
  uint64_t result = first[__builtin_ctz(mask)].value;
  for (unsigned rest = mask & (mask - 1); rest != 0; rest &= rest - 1) {
    result = step(result, first[__builtin_ctz(rest)].value);
  }
  return result;
}

void Engine::complete(WarpOperation operation, unsigned mask, Thread* first) {
  const auto as_signed = [](uint64_t value) { return static_cast<int32_t>(value); };
  uint64_t common = 0;
  switch (operation) {
    case WarpOperation::sync:
    case WarpOperation::shuffle:
    case WarpOperation::match_any:
      break;
    case WarpOperation::ballot:
      for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        common |= first[__builtin_ctz(rest)].value << __builtin_ctz(rest);
      }
      break;
    case WarpOperation::add:
      common = folded(mask, first, [](uint64_t a, uint64_t b) { return a + b; });
      break;
    case WarpOperation::all:
    case WarpOperation::minimum:
      common = folded(mask, first, [](uint64_t a, uint64_t b) { return std::min(a, b); });
      break;
    case WarpOperation::any:
    case WarpOperation::maximum:
      common = folded(mask, first, [](uint64_t a, uint64_t b) { return std::max(a, b); });
      break;
    case WarpOperation::minimum_signed:
      common = folded(mask, first, [&](uint64_t a, uint64_t b) { return as_signed(a) < as_signed(b) ? a : b; });
      break;
    case WarpOperation::maximum_signed:
      common = folded(mask, first, [&](uint64_t a, uint64_t b) { return as_signed(a) > as_signed(b) ? a : b; });
      break;
    case WarpOperation::bit_and:
      common = folded(mask, first, [](uint64_t a, uint64_t b) { return a & b; });
      break;
    case WarpOperation::bit_or:
      common = folded(mask, first, [](uint64_t a, uint64_t b) { return a | b; });
      break;
    case WarpOperation::bit_xor:
      common = folded(mask, first, [](uint64_t a, uint64_t b) { return a ^ b; });
      break;
  }
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
    Thread& thread = first[__builtin_ctz(rest)];
    thread.result = common;
    if (operation == WarpOperation::shuffle) thread.result = first[thread.source].value;
    if (operation == WarpOperation::match_any) {
      for (unsigned others = mask; others != 0; others &= others - 1) {
        const int other = __builtin_ctz(others);
        if (first[other].value == thread.value) thread.result |= uint64_t{1} << other;
      }
    }
    make_ready(&thread);
  }
}

// Nobody can go on: what the first waiting thread waits for, and what keeps it from coming.
std::string Engine::describe_stall() const {
  const auto doing = [](const Thread& thread) -> std::string {
    switch (thread.state) {
      case State::finished:
        return " has finished";
      case State::at_barrier:
        return std::string(" waits in ") + name_of(thread.vote) + " at " + text(thread.place);
      case State::in_warp_operation:
        return std::string(" waits in ") + name_of(thread.operation) + " with mask " + hexadecimal(thread.mask) +
               " at " + text(thread.place);
      default:
        return " runs";
    }
  };
  for (const Thread& thread : threads_) {
    if (thread.state != State::in_warp_operation) continue;
    const Thread* const first = &threads_[thread.id - thread.lane()];
    std::string message = describe(thread) + ":" + doing(thread);
    for (unsigned rest = thread.mask; rest != 0; rest &= rest - 1) {
      const int other = __builtin_ctz(rest);
      if (first->id + other >= static_cast<int>(threads_.size())) {
        return message + ", but lane " + std::to_string(other) + " is not in the block";
      }
      const Thread& named = first[other];
      if (named.state != State::in_warp_operation || named.operation != thread.operation || named.mask != thread.mask) {
        return message + ", but lane " + std::to_string(other) + doing(named);
      }
    }
  }
  return name_ + ": " + text("block", blockIdx) + ": no thread can go on";
}

}  // namespace

void watch(Watcher watcher) { current_watcher() = std::move(watcher); }

void allow_shared_bytes(const void* kernel, size_t bytes) { allowed_shared_bytes()[kernel] = bytes; }

void configure(const Options& options) { engine().options = options; }

std::vector<LaunchRecord> take_records() {
  std::vector<LaunchRecord> records;
  records.swap(engine().records);
  return records;
}

void fail(const std::string& message, Place place) {
  Engine& engine = cuda_on_cpu::engine();
  if (engine.current == nullptr) throw Error("outside a kernel: " + message + " (" + text(place) + ")");
  throw Failure{engine.describe(*engine.current) + ": " + message + " (" + text(place) + ")"};
}

__attribute__((noinline)) void access_global(const void* pointer, unsigned bytes, Access access, Place place) {
  static const char* const verbs[] = {"reads", "writes", "updates"};
  const auto describe = [&] {
    return std::string(verbs[static_cast<int>(access)]) + " " + std::to_string(bytes) + " bytes at " +
           hexadecimal(reinterpret_cast<uintptr_t>(pointer));
  };
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  if (address % bytes != 0) fail(describe() + ", which is not a multiple of " + std::to_string(bytes), place);
  Range* const range = find_range(address, bytes, access);
  if (range == nullptr) fail(describe() + ", " + nearest_range(address, access), place);
  engine().count(__builtin_return_address(0), address, bytes, access, *range);
}

int wait_for_block(BlockVote vote, int predicate, Place place) {
  return engine().wait_for_block(vote, predicate, place);
}

uint64_t exchange_in_warp(WarpOperation operation, unsigned mask, uint64_t value, int source, Place place) {
  return engine().exchange_in_warp(operation, mask, value, source, place);
}

int lane_of_thread() { return engine().current->lane(); }

DynamicSharedMemory dynamic_shared_memory() { return engine().dynamic_shared_memory(); }

void run_grid(const Kernel& kernel, dim3 grid, dim3 block, size_t dynamic_shared_bytes) {
  const Watcher& watcher = current_watcher();
  if (watcher && watcher({symbol_of(kernel.address), grid, block, dynamic_shared_bytes, *kernel.parameters})) return;
  engine().run(kernel, grid, block, dynamic_shared_bytes);
}

}  // namespace cuda_on_cpu
