#include "kernels/cuda/byte_tables.h"

#include "codec/codebook.h"
#include "codec/trellis.h"

namespace turboquant::cuda {
namespace {

uint32_t PackBytes(const int* v) {
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) word |= static_cast<uint32_t>(v[i] & 255) << (8 * i);
  return word;
}

}  // namespace

ByteTables MakeByteTables(int bits) {
  const signed char* steps = CentroidSteps(bits);
  int a[8] = {0}, b[8] = {0};
  for (int nibble = 0; nibble < 8; ++nibble) {
    if (bits != 4) {
      a[nibble] = steps[nibble & ((1 << bits) - 1)];
      continue;
    }
    // A positive nibble gives a + sign(b), a negative one sign(a) + b, and steps are odd about 0:
    // the 1 undoes the sign byte -1 of the other table.
    const int v = steps[NibbleToCode(4, nibble)];
    a[nibble] = v + 1;
    b[nibble] = -v;
  }
  return {CentroidUnit(bits),
          {PackBytes(a), PackBytes(a + 4)},
          {PackBytes(b), PackBytes(b + 4)},
          {0, 0},
          {0, 0}};
}

ByteTables MakeRowTables(TileFormat format) {
  if (format.bits == 8) return {Centroids(8)[255] / kLargestWideStep, {}, {}, {}, {}};
  const int entries = 1 << (format.bits + (format.trellis ? 1 : 0));
  const TrellisView trellis =
      format.trellis ? Trellis(format.bits, TrellisMemory(format.bits)) : TrellisView{};
  const signed char* steps = format.trellis ? trellis.steps : CentroidSteps(format.bits);
  const float unit = format.trellis ? trellis.unit : CentroidUnit(format.bits);
  // The lower half is below 0, the upper one above; its entries undo the sign -1 of the lower one.
  int v[32] = {0};
  for (int i = 0; i < entries; ++i) v[i] = steps[i] + (entries > 8 && i >= entries / 2 ? 1 : 0);
  return {unit,
          {PackBytes(v), PackBytes(v + 4)},
          {PackBytes(v + 8), PackBytes(v + 12)},
          {PackBytes(v + 16), PackBytes(v + 20)},
          {PackBytes(v + 24), PackBytes(v + 28)}};
}

int LookUp(const ByteTables& tables, int bits, int nibble) {
  const auto select = [](const uint32_t* words, int selector) {
    const int byte = static_cast<int8_t>(words[(selector >> 2) & 1] >> (8 * (selector & 3)));
    return (selector & 8) == 0 ? byte : byte < 0 ? -1 : 0;
  };
  const int first = select(tables.a, nibble);
  return bits == 4 ? first + select(tables.b, nibble ^ 8) : first;
}

}  // namespace turboquant::cuda
