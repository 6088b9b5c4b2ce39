#include "kernels/cpu/cpu_tables.h"
#include "kernels/kernel_api.h"

#ifdef TURBOQUANT_X86
#include <cpuid.h>
#endif
#ifdef TURBOQUANT_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(TURBOQUANT_NEON) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace turboquant {

namespace {

[[maybe_unused]] KernelTable Extended(const KernelTable& base, std::string_view name,
                                      const CodedKernels& coded) {
  KernelTable table = base;
  table.name = name;
  table.prepare_queries = coded.prepare_queries;
  table.coded_scores = coded.coded_scores;
  table.coded_accumulate = coded.coded_accumulate;
  return table;
}

}  // namespace

#ifdef TURBOQUANT_X86

namespace {

// __builtin_cpu_supports also checks that the operating system saves the wide registers. Not every
// compiler we build with knows "f16c" and "avxvnni" there, so those bits are read directly.
bool HasAvx2() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kF16c = 1u << 29;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (ecx & kF16c) != 0;
}

bool HasAvxVnni() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (!HasAvx2() || !__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kAvxVnni = 1u << 4;
  return (eax & kAvxVnni) != 0;
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

const KernelTable* AvxVnniKernels() {
  static const bool available = HasAvxVnni();
  static const KernelTable table = Extended(kAvx2KernelTable, "avxvnni", kAvxVnniKernels);
  return available ? &table : nullptr;
}

const KernelTable* Avx512Kernels() {
  static const bool available = HasAvx512();
  return available ? &kAvx512KernelTable : nullptr;
}

#ifdef TURBOQUANT_AMX

namespace {

// Linux lets a process use the large state of the tiles after it has asked (arch_prctl(2));
// threads, and the host program's own use, have it too from then on.
bool MayUseTiles() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILE_DATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool HasAmx() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (!HasAvx512() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kTileAndInt8 = 3u << 24;
  if ((edx & kTileAndInt8) != kTileAndInt8) return false;
  // Which states the operating system saves; AVX-512 is there, so this may be read.
  unsigned low = 0;
  unsigned high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kTileStates = 3u << 17;
  return (low & kTileStates) == kTileStates && MayUseTiles();
}

}  // namespace

const KernelTable* Avx512AmxKernels() {
  static const bool available = HasAmx();
  static const KernelTable table = Extended(kAvx512KernelTable, "avx512amx", kAvx512AmxKernels);
  return available ? &table : nullptr;
}

#endif  // TURBOQUANT_AMX

#else

const KernelTable* Avx2Kernels() { return nullptr; }
const KernelTable* AvxVnniKernels() { return nullptr; }
const KernelTable* Avx512Kernels() { return nullptr; }

#endif  // TURBOQUANT_X86

#ifndef TURBOQUANT_AMX
const KernelTable* Avx512AmxKernels() { return nullptr; }
#endif

#ifdef TURBOQUANT_NEON

const KernelTable* NeonKernels() { return &kNeonKernelTable; }

namespace {

bool HasDotprod() {
#ifdef __linux__
  constexpr unsigned long kAsimdDp = 1ul << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & kAsimdDp) != 0;
#else
  return false;
#endif
}

}  // namespace

const KernelTable* NeonDotprodKernels() {
  static const bool available = HasDotprod();
  static const KernelTable table = Extended(kNeonKernelTable, "neondot", kNeonDotprodKernels);
  return available ? &table : nullptr;
}

#else

const KernelTable* NeonKernels() { return nullptr; }
const KernelTable* NeonDotprodKernels() { return nullptr; }

#endif  // TURBOQUANT_NEON

std::array<const KernelTable*, 7> AllKernels() {
  return {Avx512AmxKernels(),   Avx512Kernels(), AvxVnniKernels(), Avx2Kernels(),
          NeonDotprodKernels(), NeonKernels(),   &ScalarKernels()};
}

const KernelTable* FindKernels(std::string_view name) {
  for (const KernelTable* table : AllKernels()) {
    if (table != nullptr && table->name == name) return table;
  }
  return nullptr;
}

const KernelTable& BestKernels() {
  for (const KernelTable* table : AllKernels()) {
    if (table != nullptr) return *table;
  }
  return ScalarKernels();
}

}  // namespace turboquant
