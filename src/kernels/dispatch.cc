#include "kernels/cpu/cpu_tables.h"
#include "kernels/kernel_api.h"

#ifdef TURBOQUANT_X86
#include <cpuid.h>
#endif

namespace turboquant {

#ifdef TURBOQUANT_X86

namespace {

// __builtin_cpu_supports also checks that the operating system saves the wide registers. Not every
// compiler we build with knows "f16c" there, so that one bit is read directly.
bool HasAvx2() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kF16c = 1u << 29;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (ecx & kF16c) != 0;
}

bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("gfni");
}

}  // namespace

const KernelTable* Avx2Kernels() {
  static const bool available = HasAvx2();
  return available ? &kAvx2KernelTable : nullptr;
}

const KernelTable* Avx512Kernels() {
  static const bool available = HasAvx512();
  return available ? &kAvx512KernelTable : nullptr;
}

#else

const KernelTable* Avx2Kernels() { return nullptr; }
const KernelTable* Avx512Kernels() { return nullptr; }

#endif  // TURBOQUANT_X86

#ifdef TURBOQUANT_NEON
const KernelTable* NeonKernels() { return &kNeonKernelTable; }
#else
const KernelTable* NeonKernels() { return nullptr; }
#endif

const KernelTable* FindKernels(std::string_view name) {
  if (name == "scalar") return &ScalarKernels();
  if (name == "avx2") return Avx2Kernels();
  if (name == "avx512") return Avx512Kernels();
  if (name == "neon") return NeonKernels();
  return nullptr;
}

const KernelTable& BestKernels() {
  if (const KernelTable* table = Avx512Kernels()) return *table;
  if (const KernelTable* table = Avx2Kernels()) return *table;
  if (const KernelTable* table = NeonKernels()) return *table;
  return ScalarKernels();
}

}  // namespace turboquant
