// Stacks that take turns on one CPU thread.
#pragma once

#include <stddef.h>

// ucontext works everywhere; its switches are system calls, where a few instructions do.
#if defined(__x86_64__) && !defined(CUDA_ON_CPU_UCONTEXT)
#define CUDA_ON_CPU_OWN_SWITCH
#endif

namespace cuda_on_cpu {

// A suspended computation. The one that runs when the first fiber is made is a Fiber without a stack of its own.
class Fiber {
 public:
  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the next switch to this fiber call main(), which must not return. Whatever the fiber was in the midst of is
  // forgotten, without unwinding.
  void begin(void (*main)());

  // Suspends the running fiber, which is `from`, and goes on where `to` was suspended.
  static void change(Fiber& from, Fiber& to);

  // Must be called first thing in a fiber's main.
  static void entered();

 private:
  void* stack_pointer_ = nullptr;
  char* memory_ = nullptr;  // a page without access, then the stack
  char* top_ = nullptr;
#if !defined(CUDA_ON_CPU_OWN_SWITCH)
  void* context_ = nullptr;  // ucontext_t
#endif
  void* fake_stack_ = nullptr;  // AddressSanitizer's
};

}  // namespace cuda_on_cpu
