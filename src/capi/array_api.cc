// tq_compress and its way back.
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "capi/boundary.h"
#include "files/row_file.h"
#include "kernels/kernel_api.h"
#include "kernels/row_coder.h"
#include "turboquant/turboquant.h"

namespace turboquant::capi {
namespace {

std::span<const uint8_t> Bytes(const void* data, size_t size) {
  return {static_cast<const uint8_t*>(data), size};
}

tq_status Compress(const float* x, std::vector<uint64_t> shape, const char* spec, int32_t head_dim,
                   const tq_options* options, tq_buffer* compressed, size_t* invalid_rows) {
  Memory memory;
  Logger logger;
  if (const tq_status s = ReadOptions(options, &memory, &logger); s != TQ_OK) return s;
  const Result<RowFile> file = RowFile::Plan(spec, std::move(shape), head_dim);
  if (!file.ok()) return Fail(file.status());
  const RowFile& plan = file.value();
  if (const tq_status s = memory.NewBuffer(plan.Bytes(), compressed); s != TQ_OK) return s;
  auto* bytes = static_cast<uint8_t*>(compressed->data);
  const RowCoder coder(plan.codec(), BestKernels());
  const size_t invalid = coder.Encode(x, plan.rows(), bytes + plan.rows_offset());
  plan.Seal({bytes, plan.Bytes()});
  if (invalid_rows != nullptr) *invalid_rows = invalid;
  if (invalid > 0) {
    logger.Log(TQ_LOG_WARNING, std::to_string(invalid) + " of " + std::to_string(plan.rows()) +
                                   " rows cannot be coded; stored as zeros");
  }
  return TQ_OK;
}

}  // namespace
}  // namespace turboquant::capi

using turboquant::capi::Bytes;
using turboquant::capi::Fail;
using turboquant::capi::FailNull;
using turboquant::capi::FailSmall;
using turboquant::capi::Guard;

tq_status tq_compress(const float* x, const size_t* shape, size_t num_dims, const char* spec,
                      int32_t head_dim, const tq_options* options, tq_buffer* compressed,
                      size_t* invalid_rows) {
  if (invalid_rows != nullptr) *invalid_rows = 0;
  if (compressed == nullptr) return FailNull("compressed");
  *compressed = TQ_BUFFER_INIT;
  if (x == nullptr) return FailNull("x");
  if (shape == nullptr) return FailNull("shape");
  if (spec == nullptr) return FailNull("spec");
  if (num_dims < 1 || num_dims > turboquant::kMaxArrayDims) {
    return Fail(TQ_ERROR_INVALID_ARGUMENT, "num_dims must be from 1 to 8.");
  }
  return Guard([&] {
    const tq_status status =
        turboquant::capi::Compress(x, std::vector<uint64_t>(shape, shape + num_dims), spec,
                                   head_dim, options, compressed, invalid_rows);
    if (status != TQ_OK) tq_buffer_free(compressed);
    return status;
  });
}

tq_status tq_compressed_info(const void* compressed, size_t size, tq_array_info* info) {
  if (compressed == nullptr) return FailNull("compressed");
  return Guard([&] {
    const auto file = turboquant::RowFile::Open(Bytes(compressed, size));
    if (!file.ok()) return Fail(file.status());
    const turboquant::RowFile& f = file.value();
    tq_array_info filled = {};
    filled.num_values = f.values();
    filled.num_dims = f.shape().size();
    std::copy(f.shape().begin(), f.shape().end(), filled.shape);
    filled.rows = f.rows();
    filled.row_bytes = f.codec().row_bytes();
    filled.bits_per_value = f.BitsPerValue();
    filled.head_dim = f.codec().head_dim();
    f.codec().spec_text().copy(filled.spec, sizeof(filled.spec) - 1);
    return turboquant::capi::WriteStruct(filled, info, "info");
  });
}

tq_status tq_decompress(const void* compressed, size_t size, float* x, size_t values) {
  if (compressed == nullptr) return FailNull("compressed");
  if (x == nullptr) return FailNull("x");
  return Guard([&]() -> tq_status {
    const auto file = turboquant::RowFile::Open(Bytes(compressed, size));
    if (!file.ok()) return Fail(file.status());
    const turboquant::RowFile& f = file.value();
    if (values < f.values()) return FailSmall("x", values, f.values(), "values");
    if (const turboquant::Status s = f.Verify(); !s.ok()) return Fail(s);
    turboquant::RowCoder(f.codec(), turboquant::BestKernels()).Decode(f.row(0), f.rows(), x);
    return TQ_OK;
  });
}
