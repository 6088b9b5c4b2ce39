// One number for what a kernel table makes of very many rows, so that tables can be compared across
// machines: equal digests, equal bytes.
//
//   encode_digest [--rows N] [--table NAME]... [--expect BYTES FLOATS]
//
// Encodes and decodes N rows (10 million by default) of all kinds with every table of this CPU, or
// with those named, and prints for each the XXH3-64 of all coded bytes and refusals, and of all
// decoded floats. Ends with 1 if two tables differ, or one from what is expected. Rows are made of
// integers, so they are the same everywhere.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/fp16.h"
#include "base/rng.h"
#include "codec/codec.h"
#include "kernels/kernel_api.h"
#include "kernels/row_coder.h"

namespace turboquant {
namespace {

constexpr size_t kBatch = 64;  // rows

struct Case {
  std::string spec;
  int head_dim;
  double share;  // of all rows
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  const auto add = [&](std::vector<const char*> specs, std::vector<int> dims, double weight) {
    for (const char* spec : specs) {
      for (const int d : dims) cases.push_back({spec, d, weight});
    }
  };
  add({"turbo1", "turbo2", "turbo3", "turbo4", "turbo8"}, {64, 80, 128, 256, 576}, 4);
  add({"turbo2.5", "turbo3.5", "turbo2q", "turbo3q", "turbo4q"}, {80, 128}, 2);
  add({"turbo3:scale=unbiased", "turbo2:codebook=beta", "turbo2.5:split=outlier"}, {128}, 2);
  add({"turbo2t", "turbo3t", "turbo4t"}, {80, 128}, 1);
  double total = 0;
  for (const Case& c : cases) total += c.share;
  for (Case& c : cases) c.share /= total;
  return cases;
}

// 2^exponent, -126 <= exponent <= 127.
float PowerOfTwo(int exponent) { return BitsToFloat(static_cast<uint32_t>(exponent + 127) << 23); }

// Of 16 rows: four like samples of N(0, 1), five of them at magnitudes from 1e-30 to 1e30, and one
// of each kind that a codec treats in its own way.
void FillRow(uint64_t kind, SplitMix64* random, int d, float* x) {
  const auto bell = [&](float unit) {  // the sum of four uniform numbers
    for (int i = 0; i < d; ++i) {
      uint64_t draw = random->Next();
      int sum = -2 * 0xFFFF;
      for (int part = 0; part < 4; ++part, draw >>= 16) sum += static_cast<int>(draw & 0xFFFF);
      x[i] = static_cast<float>(sum) * unit;
    }
  };
  const auto position = [&] { return random->Next() % static_cast<uint64_t>(d); };
  const float unit = PowerOfTwo(static_cast<int>(random->Next() % 201) - 115);
  std::memset(x, 0, static_cast<size_t>(d) * sizeof(float));
  switch (kind % 16) {
    case 0:
      return;  // zeros
    case 1:    // subnormal
      for (int i = 0; i < d; ++i) x[i] = BitsToFloat(static_cast<uint32_t>(random->Next() >> 41));
      return;
    case 2:  // one-hot
      x[position()] = unit * 30000.0f;
      return;
    case 3:
      bell(unit);
      x[position()] = BitsToFloat(0x7FC00000u);  // NaN
      return;
    case 4:
      bell(unit);
      x[position()] = std::numeric_limits<float>::infinity();
      return;
    case 5:  // small whole numbers: ties
      for (int i = 0; i < d; ++i) x[i] = static_cast<float>(random->Next() % 5) - 2.0f;
      return;
    case 6:  // energy near and beyond the largest float
      return bell(PowerOfTwo(44 + static_cast<int>(random->Next() % 8)));
    case 7:
    case 8:
    case 9:
    case 10:
      return bell(PowerOfTwo(-16));
    default:
      return bell(unit);
  }
}

struct Digest {
  uint64_t bytes = 0;
  uint64_t floats = 0;
  bool operator==(const Digest&) const = default;
};

Digest DigestOf(const KernelTable& table, uint64_t rows) {
  XXH3_state_t bytes_hash, floats_hash;
  XXH3_64bits_reset(&bytes_hash);
  XXH3_64bits_reset(&floats_hash);
  for (const Case& c : Cases()) {
    const auto codec = Codec::Create(c.spec, c.head_dim);
    if (!codec.ok()) {
      std::fprintf(stderr, "%s\n", codec.status().message().c_str());
      std::exit(2);
    }
    const RowCoder coder(*codec.value(), table);
    const auto d = static_cast<size_t>(c.head_dim);
    const size_t stride = codec.value()->row_bytes();
    std::vector<float> x(kBatch * d), decoded(kBatch * d);
    std::vector<uint8_t> coded(kBatch * stride), valid(kBatch);
    SplitMix64 random(XXH3_64bits(c.spec.data(), c.spec.size()) + d);
    const auto count = static_cast<uint64_t>(c.share * static_cast<double>(rows) + 1);
    for (uint64_t first = 0; first < count; first += kBatch) {
      const size_t n = std::min<uint64_t>(kBatch, count - first);
      for (size_t j = 0; j < n; ++j) FillRow(first + j, &random, c.head_dim, &x[j * d]);
      coder.Encode(x.data(), n, coded.data(), valid.data());
      coder.Decode(coded.data(), n, decoded.data());
      XXH3_64bits_update(&bytes_hash, coded.data(), n * stride);
      XXH3_64bits_update(&bytes_hash, valid.data(), n);
      XXH3_64bits_update(&floats_hash, decoded.data(), n * d * sizeof(float));
    }
  }
  return {XXH3_64bits_digest(&bytes_hash), XXH3_64bits_digest(&floats_hash)};
}

int Run(uint64_t rows, std::vector<const KernelTable*> tables, const Digest* expected) {
  bool same = true;
  Digest first;
  if (expected != nullptr) first = *expected;
  for (size_t i = 0; i < tables.size(); ++i) {
    const auto start = std::chrono::steady_clock::now();
    const Digest digest = DigestOf(*tables[i], rows);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    std::printf("%-8s %llu rows   bytes %016llx   floats %016llx   %.1f s\n",
                std::string(tables[i]->name).c_str(), static_cast<unsigned long long>(rows),
                static_cast<unsigned long long>(digest.bytes),
                static_cast<unsigned long long>(digest.floats), took.count());
    std::fflush(stdout);
    if (i == 0 && expected == nullptr) first = digest;
    same = same && digest == first;
  }
  std::printf("%s\n", same ? "equal" : "DIFFERENT");
  return same ? 0 : 1;
}

}  // namespace
}  // namespace turboquant

int main(int argc, char** argv) {
  using namespace turboquant;
  uint64_t rows = 10000000;
  std::vector<const KernelTable*> tables;
  Digest expected;
  bool has_expected = false;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string option = argv[i];
    if (option == "--rows") rows = std::strtoull(argv[i + 1], nullptr, 10);
    if (option == "--table") {
      const KernelTable* table = FindKernels(argv[i + 1]);
      if (table == nullptr) {
        std::fprintf(stderr, "this CPU or build has no kernels '%s'\n", argv[i + 1]);
        return 2;
      }
      tables.push_back(table);
    }
    if (option == "--expect" && i + 2 < argc) {
      expected = {std::strtoull(argv[i + 1], nullptr, 16), std::strtoull(argv[i + 2], nullptr, 16)};
      has_expected = true;
      ++i;
    }
  }
  if (tables.empty()) {
    for (const KernelTable* table : AllKernels()) {
      if (table != nullptr) tables.push_back(table);
    }
  }
  return Run(rows, tables, has_expected ? &expected : nullptr);
}
