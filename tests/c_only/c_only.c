/* Uses every structure and initialiser of the header from C, and each group of functions once. */
#include <stdio.h>
#include <string.h>
#include <turboquant/turboquant.h>

#define CHECK(condition)                                                                   \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, tq_last_error()); \
      return 1;                                                                            \
    }                                                                                      \
  } while (0)

enum { kDim = 64, kRows = 10 };

static int logged = 0;

static void Log(void* context, tq_log_level level, const char* message) {
  (void)context;
  if (level == TQ_LOG_INFO && strlen(message) > 0) ++logged;
}

static int Codecs(const float* x) {
  const tq_logger logger = {sizeof(logger), NULL, TQ_LOG_INFO, Log};
  tq_options options = TQ_OPTIONS_INIT;
  options.logger = &logger;
  tq_codec* codec = NULL;
  CHECK(tq_codec_create("turbo4", kDim, &options, &codec) == TQ_OK);
  CHECK(logged == 1);
  tq_codec_info info = TQ_CODEC_INFO_INIT;
  CHECK(tq_codec_get_info(codec, &info) == TQ_OK);
  CHECK(info.row_bytes == 34 && info.head_dim == kDim);
  unsigned char rows[kRows * 34];
  float decoded[kRows * kDim];
  CHECK(tq_codec_encode(codec, x, kRows, rows, sizeof(rows), NULL) == TQ_OK);
  CHECK(tq_codec_decode(codec, rows, sizeof(rows), kRows, decoded) == TQ_OK);
  double error = 0, energy = 0;
  for (int i = 0; i < kRows * kDim; ++i) {
    error += (decoded[i] - x[i]) * (double)(decoded[i] - x[i]);
    energy += x[i] * (double)x[i];
  }
  CHECK(error > 0 && error < 0.02 * energy);
  float out[kDim];
  tq_attention attention = {0};
  attention.struct_size = sizeof(attention);
  attention.k_codec = codec;
  attention.v_codec = codec;
  attention.k_rows = rows;
  attention.k_rows_size = sizeof(rows);
  attention.v_rows = rows;
  attention.v_rows_size = sizeof(rows);
  attention.n = kRows;
  attention.query = x;
  attention.scale = 0.125f;
  attention.out = out;
  CHECK(tq_attend(&attention) == TQ_OK);
  tq_codec_destroy(codec);
  return 0;
}

static int Arrays(const float* x) {
  const size_t shape[2] = {kRows, kDim};
  tq_buffer block = TQ_BUFFER_INIT;
  CHECK(tq_compress(x, shape, 2, "turbo8", 0, NULL, &block, NULL) == TQ_OK);
  tq_array_info info;
  memset(&info, 0, sizeof(info));
  info.struct_size = sizeof(info);
  CHECK(tq_compressed_info(block.data, block.size, &info) == TQ_OK);
  CHECK(info.num_values == kRows * kDim);
  float decoded[kRows * kDim];
  CHECK(tq_decompress(block.data, block.size, decoded, kRows * kDim) == TQ_OK);
  tq_buffer_free(&block);
  return 0;
}

static int Caches(const float* x) {
  tq_cache_options options = TQ_CACHE_OPTIONS_INIT;
  options.num_kv_heads = 1;
  options.head_dim_k = kDim;
  options.head_dim_v = kDim;
  options.capacity = 128;
  tq_cache* cache = NULL;
  CHECK(tq_cache_create("turbo3", &options, &cache) == TQ_OK);
  CHECK(tq_cache_append(cache, x, x, kRows) == TQ_OK);
  float out[kDim];
  CHECK(tq_cache_attend(cache, x, 1, 1, 0.125f, out, kDim) == TQ_OK);
  CHECK(tq_cache_size(cache) == kRows && tq_cache_memory_bytes(cache) > 0);
  tq_cache_destroy(cache);
  return 0;
}

int main(void) {
  float x[kRows * kDim];
  unsigned state = 1;
  for (int i = 0; i < kRows * kDim; ++i) {
    state = state * 1664525u + 1013904223u;
    x[i] = (float)(int)(state >> 16) / 32768.0f - 1.0f;
  }
  CHECK(tq_version() == TQ_VERSION);
  tq_codec* none = NULL;
  CHECK(tq_codec_create("no such codec", kDim, NULL, &none) == TQ_ERROR_INVALID_ARGUMENT);
  CHECK(none == NULL && strlen(tq_last_error()) > 0);
  return Codecs(x) || Arrays(x) || Caches(x);
}
