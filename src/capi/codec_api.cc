// tq_codec, tq_attend and tq_estimator.
#include <memory>
#include <string>
#include <utility>

#include "attention/attend_rows.h"
#include "capi/boundary.h"
#include "capi/handles.h"
#include "codec/codec_spec.h"
#include "kernels/kernel_api.h"
#include "turboquant/turboquant.h"

namespace turboquant::capi {
namespace {

// A new tq_codec or tq_estimator.
template <typename Handle>
tq_status Create(const char* spec, int32_t head_dim, const tq_options* options,
                 bool must_be_unbiased, Handle** handle) {
  Memory memory;
  Logger logger;
  if (const tq_status s = ReadOptions(options, &memory, &logger); s != TQ_OK) return s;
  auto codec = Codec::Create(spec, head_dim);
  if (!codec.ok()) return Fail(codec.status());
  if (must_be_unbiased && !codec.value()->unbiased()) {
    std::string message("the inner products of ");
    message.append(codec.value()->spec_text());
    message.append(
        " are biased: use turbo2q, turbo3q or turbo4q, or scale=unbiased where the codec takes "
        "it.");
    return Fail(InvalidArgument(std::move(message)));
  }
  const std::string made = codec.value()->spec_text() + ", rows of " + std::to_string(head_dim) +
                           " values in " + std::to_string(codec.value()->row_bytes()) + " bytes";
  Handle* created = memory.New<Handle>(logger, std::move(codec.value()));
  if (created == nullptr) return FailOutOfMemory(sizeof(Handle));
  *handle = created;
  logger.Log(TQ_LOG_INFO, made);
  return TQ_OK;
}

tq_status CheckRows(const char* what, const tq_codec& codec, const void* rows, size_t rows_size,
                    size_t n) {
  if (n == 0) return TQ_OK;
  if (rows == nullptr) return FailNull(what);
  const size_t need = Product(n, codec.codec->row_bytes());
  return rows_size < need ? FailSmall(what, rows_size, need, "bytes") : TQ_OK;
}

}  // namespace
}  // namespace turboquant::capi

using turboquant::capi::CheckRows;
using turboquant::capi::Fail;
using turboquant::capi::FailNull;
using turboquant::capi::Guard;
using turboquant::capi::Memory;

size_t tq_codec_count(void) { return turboquant::CodecRegistry().size(); }

// The registry's views are of literals, so they end with a zero.
const char* tq_codec_name(size_t index) {
  return index < tq_codec_count() ? turboquant::CodecRegistry()[index].name.data() : nullptr;
}

const char* tq_codec_summary(size_t index) {
  return index < tq_codec_count() ? turboquant::CodecRegistry()[index].summary.data() : nullptr;
}

tq_status tq_codec_create(const char* spec, int32_t head_dim, const tq_options* options,
                          tq_codec** codec) {
  if (codec == nullptr) return FailNull("codec");
  *codec = nullptr;
  if (spec == nullptr) return FailNull("spec");
  return Guard([&] { return turboquant::capi::Create(spec, head_dim, options, false, codec); });
}

void tq_codec_destroy(tq_codec* codec) { Memory::Delete(codec); }

tq_status tq_codec_get_info(const tq_codec* codec, tq_codec_info* info) {
  if (codec == nullptr) return FailNull("codec");
  const turboquant::Codec& c = *codec->codec;
  tq_codec_info filled = TQ_CODEC_INFO_INIT;
  filled.row_bytes = c.row_bytes();
  filled.bits_per_value = c.bits_per_value();
  filled.head_dim = c.head_dim();
  filled.scales_per_row = c.scales_per_row();
  filled.unbiased = c.unbiased() ? 1 : 0;
  return turboquant::capi::WriteStruct(filled, info, "info");
}

const char* tq_codec_spec(const tq_codec* codec) {
  return codec == nullptr ? nullptr : codec->spec.c_str();
}

tq_status tq_codec_encode(const tq_codec* codec, const float* x, size_t n, void* rows,
                          size_t rows_size, size_t* invalid_rows) {
  if (invalid_rows != nullptr) *invalid_rows = 0;
  if (codec == nullptr) return FailNull("codec");
  if (x == nullptr && n > 0) return FailNull("x");
  if (const tq_status s = CheckRows("rows", *codec, rows, rows_size, n); s != TQ_OK) return s;
  return Guard([&]() -> tq_status {
    const size_t invalid = codec->coder.Encode(x, n, static_cast<uint8_t*>(rows));
    if (invalid_rows != nullptr) *invalid_rows = invalid;
    if (invalid > 0 && codec->logger.Wants(TQ_LOG_WARNING)) {
      codec->logger.Log(TQ_LOG_WARNING,
                        std::to_string(invalid) + " of " + std::to_string(n) +
                            " rows hold NaN, Inf or more energy than a float; stored as zeros");
    }
    return TQ_OK;
  });
}

tq_status tq_codec_decode(const tq_codec* codec, const void* rows, size_t rows_size, size_t n,
                          float* x) {
  if (codec == nullptr) return FailNull("codec");
  if (x == nullptr && n > 0) return FailNull("x");
  if (const tq_status s = CheckRows("rows", *codec, rows, rows_size, n); s != TQ_OK) return s;
  return Guard([&]() -> tq_status {
    codec->coder.Decode(static_cast<const uint8_t*>(rows), n, x);
    return TQ_OK;
  });
}

tq_status tq_codec_inner_products(const tq_codec* codec, const float* query, const void* rows,
                                  size_t rows_size, size_t n, float* scores) {
  if (codec == nullptr) return FailNull("codec");
  if (query == nullptr) return FailNull("query");
  if (scores == nullptr && n > 0) return FailNull("scores");
  if (const tq_status s = CheckRows("rows", *codec, rows, rows_size, n); s != TQ_OK) return s;
  return Guard([&]() -> tq_status {
    codec->coder.InnerProducts(query, static_cast<const uint8_t*>(rows), n, scores);
    return TQ_OK;
  });
}

tq_status tq_attend(const tq_attention* attention) {
  if (attention == nullptr) return FailNull("attention");
  tq_attention a;
  if (const tq_status s = turboquant::capi::ReadStruct(attention, &a, "tq_attention"); s != TQ_OK) {
    return s;
  }
  if (a.k_codec == nullptr) return FailNull("k_codec");
  if (a.v_codec == nullptr) return FailNull("v_codec");
  if (a.query == nullptr) return FailNull("query");
  if (a.out == nullptr) return FailNull("out");
  tq_status status = CheckRows("k_rows", *a.k_codec, a.k_rows, a.k_rows_size, a.n);
  if (status == TQ_OK) status = CheckRows("v_rows", *a.v_codec, a.v_rows, a.v_rows_size, a.n);
  if (status != TQ_OK) return status;
  return Guard([&]() -> tq_status {
    turboquant::RowsAttention run;
    run.k_codec = a.k_codec->codec.get();
    run.k_rows = static_cast<const uint8_t*>(a.k_rows);
    run.v_codec = a.v_codec->codec.get();
    run.v_rows = static_cast<const uint8_t*>(a.v_rows);
    run.n = a.n;
    run.query = a.query;
    run.bias = a.bias;
    run.scale = a.scale;
    run.out = a.out;
    run.weights = a.weights;
    turboquant::AttendRows(run, turboquant::BestKernels());
    return TQ_OK;
  });
}

tq_status tq_estimator_create(const char* spec, int32_t head_dim, const tq_options* options,
                              tq_estimator** estimator) {
  if (estimator == nullptr) return FailNull("estimator");
  *estimator = nullptr;
  if (spec == nullptr) return FailNull("spec");
  return Guard([&] { return turboquant::capi::Create(spec, head_dim, options, true, estimator); });
}

void tq_estimator_destroy(tq_estimator* estimator) { Memory::Delete(estimator); }

const tq_codec* tq_estimator_codec(const tq_estimator* estimator) {
  return estimator == nullptr ? nullptr : &estimator->inner;
}

tq_status tq_estimator_quantize(const tq_estimator* estimator, const float* x, size_t n, void* rows,
                                size_t rows_size, size_t* invalid_rows) {
  if (estimator == nullptr) return FailNull("estimator");
  return tq_codec_encode(&estimator->inner, x, n, rows, rows_size, invalid_rows);
}

tq_status tq_estimator_inner_product(const tq_estimator* estimator, const float* query,
                                     const void* rows, size_t rows_size, size_t n, float* scores) {
  if (estimator == nullptr) return FailNull("estimator");
  return tq_codec_inner_products(&estimator->inner, query, rows, rows_size, n, scores);
}

tq_status tq_estimator_dequantize(const tq_estimator* estimator, const void* rows, size_t rows_size,
                                  size_t n, float* x) {
  if (estimator == nullptr) return FailNull("estimator");
  return tq_codec_decode(&estimator->inner, rows, rows_size, n, x);
}
