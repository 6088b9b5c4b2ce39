// What every kernel test is parametrised over.
#ifndef TURBOQUANT_TESTS_KERNELS_KERNEL_CASES_H_
#define TURBOQUANT_TESTS_KERNELS_KERNEL_CASES_H_

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/kernel_api.h"

namespace turboquant {

struct KernelCase {
  const KernelTable* table;
  int bits;
  int head_dim;
};

inline std::vector<const KernelTable*> AvailableTables() {
  std::vector<const KernelTable*> tables;
  for (const KernelTable* table : AllKernels()) {
    if (table != nullptr) tables.push_back(table);
  }
  return tables;
}

inline const std::vector<int>& TestHeadDims() {
  static const std::vector<int> dims = {16, 32, 48, 64, 80, 96, 112, 128, 192, 256, 512, 576};
  return dims;
}

inline std::vector<KernelCase> CasesOf(const std::vector<int>& widths) {
  std::vector<KernelCase> cases;
  for (const KernelTable* table : AvailableTables()) {
    for (const int bits : widths) {
      for (const int d : TestHeadDims()) cases.push_back({table, bits, d});
    }
  }
  return cases;
}

// What encodes and decodes.
inline std::vector<KernelCase> CodecCases() { return CasesOf({1, 2, 3, 4, 8}); }

// Kernels that know nothing of codes: bits is 0.
inline std::vector<KernelCase> DenseCases() { return CasesOf({0}); }

inline std::string CaseName(const testing::TestParamInfo<KernelCase>& info) {
  std::string name(info.param.table->name);
  if (info.param.bits != 0) name += "_turbo" + std::to_string(info.param.bits);
  return name + "_d" + std::to_string(info.param.head_dim);
}

inline std::string TableName(const testing::TestParamInfo<const KernelTable*>& info) {
  return std::string(info.param->name);
}

}  // namespace turboquant

#endif  // TURBOQUANT_TESTS_KERNELS_KERNEL_CASES_H_
