#include "fibers.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <new>

#if !defined(CUDA_ON_CPU_OWN_SWITCH)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_on_cpu {
namespace {

constexpr size_t page_bytes = 4096;
constexpr size_t stack_bytes = 256 * 1024;  // pages that are never touched cost nothing
constexpr size_t mapped_bytes = stack_bytes + page_bytes;

int made = 0;

#if defined(__SANITIZE_ADDRESS__)
// The stack of the fiber that has none of its own, learnt whenever a switch from it arrives.
const void* first_stack = nullptr;
size_t first_stack_bytes = 0;
bool from_first = false;

void arrived(void* fake_stack) {
  const void* stack = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fake_stack, &stack, &bytes);
  if (from_first) {
    first_stack = stack;
    first_stack_bytes = bytes;
  }
}
#endif

}  // namespace

#if defined(CUDA_ON_CPU_OWN_SWITCH)
// Saves what a call must keep on the running stack, and takes up the other one. The floating-point modes are the same
// in all fibers.
extern "C" void cuda_on_cpu_change_stack(void** save_stack_pointer, void* stack_pointer);
asm(R"(
  .text
  .type cuda_on_cpu_change_stack, @function
cuda_on_cpu_change_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size cuda_on_cpu_change_stack, .-cuda_on_cpu_change_stack
)");
#endif

Fiber::~Fiber() {
#if !defined(CUDA_ON_CPU_OWN_SWITCH)
  delete static_cast<ucontext_t*>(context_);
#endif
  if (memory_ != nullptr) munmap(memory_, mapped_bytes);
}

void Fiber::begin(void (*main)()) {
  if (memory_ == nullptr) {
    void* memory =
        mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<char*>(memory);
    mprotect(memory_, page_bytes, PROT_NONE);
    // Stacks that all began at the same place in a page would compete for the same few lines of the caches.
    top_ = memory_ + mapped_bytes - made++ % 61 * 64;
  }
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(memory_ + page_bytes, stack_bytes);
  fake_stack_ = nullptr;
#endif
#if defined(CUDA_ON_CPU_OWN_SWITCH)
  // As cuda_on_cpu_change_stack left it: six registers, then the address it returns to; above it the return address
  // that main never uses, so that main's stack is aligned as after a call.
  void** frame = reinterpret_cast<void**>(top_) - 8;
  memset(frame, 0, 8 * sizeof(void*));
  frame[6] = reinterpret_cast<void*>(main);
  stack_pointer_ = frame;
#else
  if (context_ == nullptr) context_ = new ucontext_t;
  ucontext_t* context = static_cast<ucontext_t*>(context_);
  getcontext(context);
  context->uc_stack.ss_sp = memory_ + page_bytes;
  context->uc_stack.ss_size = static_cast<size_t>(top_ - (memory_ + page_bytes));
  context->uc_link = nullptr;
  makecontext(context, main, 0);
#endif
}

void Fiber::change(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  from_first = from.memory_ == nullptr;
  const bool to_first = to.memory_ == nullptr;
  __sanitizer_start_switch_fiber(&from.fake_stack_, to_first ? first_stack : to.memory_ + page_bytes,
                                 to_first ? first_stack_bytes : stack_bytes);
#endif
#if defined(CUDA_ON_CPU_OWN_SWITCH)
  cuda_on_cpu_change_stack(&from.stack_pointer_, to.stack_pointer_);
#else
  if (from.context_ == nullptr) from.context_ = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(from.context_), static_cast<ucontext_t*>(to.context_));
#endif
#if defined(__SANITIZE_ADDRESS__)
  arrived(from.fake_stack_);
#endif
}

void Fiber::entered() {
#if defined(__SANITIZE_ADDRESS__)
  arrived(nullptr);
#endif
}

}  // namespace cuda_on_cpu
