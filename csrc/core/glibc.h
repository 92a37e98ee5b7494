// Keeps the libraries loadable beside glibc 2.28, of manylinux_2_28, wherever they are built. setup.py includes this
// file before every source.
//
// A newer glibc gives some functions a version of their own: exp and log, which set errno otherwise since 2.29, dlopen
// and dlsym, which are in libc and no longer in libdl since 2.34. Linked to these, a library would not load beside an
// older glibc. Here they keep the version that each glibc of the machine has had from its beginning. Nothing reads
// errno.
#pragma once

#include <features.h>

#if defined(__GLIBC__) && !defined(__CUDA_ARCH__)

#if defined(__x86_64__)
#define MDN_FIRST_GLIBC "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define MDN_FIRST_GLIBC "GLIBC_2.17"
#endif

#ifdef MDN_FIRST_GLIBC
__asm__(".symver exp, exp@" MDN_FIRST_GLIBC);
__asm__(".symver log, log@" MDN_FIRST_GLIBC);
__asm__(".symver dlopen, dlopen@" MDN_FIRST_GLIBC);
__asm__(".symver dlsym, dlsym@" MDN_FIRST_GLIBC);

// std::shared_ptr reads this of glibc since 2.32, to count without atomics as long as there is one thread. The
// library's own says that there are more, as there are beside torch.
extern "C" {
__attribute__((weak, visibility("hidden"))) char __libc_single_threaded = 0;
}
#endif

#endif
