// State row: how a coded row travels through the host's state files, prompt caches and copies.
//
// The host moves rows of 2 * width bytes, as an f16 cache has them. An exact row is its f16 values.
// A coded row needs about a third of that; the rest carries what decodes it, the mean of its page
// included, so every record stands alone. Layout: docs/FORMAT.md, "State row".
#ifndef TURBOQUANT_KVCACHE_STATE_ROW_H_
#define TURBOQUANT_KVCACHE_STATE_ROW_H_

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "codec/format.h"
#include "kernels/kernel_api.h"

namespace turboquant {

struct StoreShape;

struct StateRow {
  Format format = Format::kTurbo4;
  int head_dim = 0;
  int width = 0;
  uint32_t seed = 0;              // of the rotation
  const uint8_t* mean = nullptr;  // stored form (LoadStateRowMean); null: not centred
  const uint8_t* rows = nullptr;  // canonical row bytes, one per head
};

// Steps of a mean lie in [-limit, limit]. Rows of 8 bits leave room for half a byte a step only.
constexpr int MeanStepLimit(Format f) { return f == Format::kTurbo8 ? 7 : 127; }

// Bytes of the record, at most 2 * width for every shape that SupportedShape accepts.
size_t StateRowBytes(const StoreShape& shape);

// Writes header and mean (steps [width] and their fp16 sizes [width / 16]; null: not centred) and
// returns where the canonical row bytes go. What `row` points at is not read.
uint8_t* WriteStateRowHeader(const StateRow& row, const int8_t* mean_steps,
                             const uint16_t* mean_sizes, uint8_t* record);
// Writes magic and checksum, last.
void SealStateRow(const StateRow& row, uint8_t* record);

// True if the 2 * width bytes are a coded record, even one whose magic or checksum is damaged.
bool IsStateRow(const uint8_t* record, int width);
// Corrupt (checksum, impossible header) or fills `row` with pointers into `record`.
Status ParseStateRow(const uint8_t* record, int width, StateRow* row);
// The mean of a parsed record that has one.
void LoadStateRowMean(const StateRow& row, int8_t* steps, uint16_t* sizes);
// Values of a parsed record as f16 [width].
void DecodeStateRow(const StateRow& row, const KernelTable& kernels, uint16_t* out);

}  // namespace turboquant

#endif  // TURBOQUANT_KVCACHE_STATE_ROW_H_
