#include "kernels/cuda/tile_convert.h"

#include <cstring>

#include "codec/trellis_codec.h"

namespace turboquant::cuda {
namespace {

// The code area of a side as words, in a buffer of their alignment.
struct Area {
  uint32_t words[kMaxTileHeadDim * kTileTokens / 8];

  void Load(const uint8_t* bytes, int n) { std::memcpy(words, bytes, static_cast<size_t>(n)); }
};

size_t AreaOffset(const RecordLayout& layout, bool value_side) {
  return value_side ? static_cast<size_t>(layout.v_codes) : 0;
}

uint8_t* ScaleAt(const RecordLayout& layout, uint8_t* record, bool value_side, int token) {
  return record + (value_side ? layout.v_scales : layout.k_scales) + 2 * ScaleSlot(token);
}

}  // namespace

void LoadTileRow(const RecordLayout& layout, const uint8_t* record, bool value_side, int token,
                 uint8_t* codes, uint16_t* scale) {
  const TileFormat f = value_side ? layout.v : layout.k;
  const int d = layout.head_dim;
  const int row_bytes = f.bits * d / 8;
  const uint8_t* area = record + AreaOffset(layout, value_side);
  *scale = LoadHalf(ScaleAt(layout, const_cast<uint8_t*>(record), value_side, token));
  if (OrderOf(f, d) == TileOrder::kRows) {
    std::memcpy(codes, area + static_cast<size_t>(token) * row_bytes,
                static_cast<size_t>(row_bytes));
    return;
  }
  Area words;
  words.Load(area, CodeAreaBytes(f, d));
  std::memset(codes, 0, static_cast<size_t>(row_bytes));
  for (int i = 0; i < d; ++i) {
    StoreCode(f.bits, codes, d, i, LoadFragmentCode(f.bits, words.words, value_side, d, token, i));
  }
}

void StoreTileRow(const RecordLayout& layout, uint8_t* record, bool value_side, int token,
                  const uint8_t* codes, uint16_t scale) {
  const TileFormat f = value_side ? layout.v : layout.k;
  const int d = layout.head_dim;
  const int row_bytes = f.bits * d / 8;
  uint8_t* area = record + AreaOffset(layout, value_side);
  StoreHalf(scale, ScaleAt(layout, record, value_side, token));
  if (OrderOf(f, d) == TileOrder::kRows) {
    std::memcpy(area + static_cast<size_t>(token) * row_bytes, codes,
                static_cast<size_t>(row_bytes));
    return;
  }
  Area words;
  words.Load(area, CodeAreaBytes(f, d));
  for (int i = 0; i < d; ++i) {
    const NibblePlace p = PlaceOf(value_side, d, token, i);
    const uint32_t nibble =
        static_cast<uint32_t>(CodeToNibble(f.bits, LoadCode(f.bits, codes, d, i)));
    uint32_t s[4];
    LoadQuad(f.bits, words.words, d, p.quad, p.lane, s);
    s[p.word] = (s[p.word] & ~(15u << (4 * p.nibble))) | (nibble << (4 * p.nibble));
    StoreQuad(f.bits, words.words, d, p.quad, p.lane, s);
  }
  std::memcpy(area, words.words, static_cast<size_t>(CodeAreaBytes(f, d)));
}

void DecodeTileRow(const RecordLayout& layout, const uint8_t* record, bool value_side, int token,
                   float* y) {
  const TileFormat f = value_side ? layout.v : layout.k;
  uint8_t codes[kMaxTileHeadDim];
  uint16_t scale = 0;
  LoadTileRow(layout, record, value_side, token, codes, &scale);
  if (f.trellis) {
    DecodeTrellisRow(Trellis(f.bits, TrellisMemory(f.bits)), codes, scale, layout.head_dim, y);
  } else {
    DecodeRotatedRow(f.bits, codes, scale, layout.head_dim, y);
  }
}

}  // namespace turboquant::cuda
