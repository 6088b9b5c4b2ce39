/* A compressed KV cache next to exact attention: what a layer of an engine does with libturboquant.
 *
 * One layer with 2 kv heads, 4 query heads and 128 values a head holds 2000 tokens. Prints memory
 * and error, saves the cache, restores it elsewhere and checks that the answer is the same. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <turboquant/turboquant.h>

enum { kTokens = 2000, kKvHeads = 2, kQueryHeads = 4, kDim = 128, kWidth = kKvHeads * kDim };

static void Fail(const char* what) {
  fprintf(stderr, "%s: %s\n", what, tq_last_error());
  exit(1);
}

/* Roughly normal numbers, the same on every machine. */
static float Random(void) {
  static uint32_t state = 1;
  float sum = 0;
  for (int i = 0; i < 12; ++i) {
    state = state * 1664525u + 1013904223u;
    sum += (float)(state >> 8) / 16777216.0f;
  }
  return sum - 6.0f;
}

static float* RandomArray(size_t n) {
  float* values = malloc(n * sizeof(float));
  if (values == NULL) exit(1);
  for (size_t i = 0; i < n; ++i) values[i] = Random();
  return values;
}

/* Attention of one query head over exact rows. */
static void ExactAttention(const float* q, const float* k, const float* v, int head, double* out) {
  static double weights[kTokens];
  double sum = 0;
  memset(out, 0, kDim * sizeof(double));
  for (int t = 0; t < kTokens; ++t) {
    double logit = 0;
    for (int i = 0; i < kDim; ++i) logit += (double)q[i] * k[t * kWidth + head * kDim + i];
    weights[t] = exp(logit / sqrt(kDim));
    sum += weights[t];
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < kDim; ++i) {
      out[i] += weights[t] / sum * v[t * kWidth + head * kDim + i];
    }
  }
}

int main(void) {
  float* k = RandomArray(kTokens * kWidth);
  float* v = RandomArray(kTokens * kWidth);
  float* q = RandomArray(kQueryHeads * kDim);
  const float scale = 1.0f / sqrtf(kDim);

  tq_cache_options options = TQ_CACHE_OPTIONS_INIT;
  options.num_kv_heads = kKvHeads;
  options.head_dim_k = kDim;
  options.head_dim_v = kDim;
  options.capacity = 4096;
  tq_cache* cache = NULL;
  if (tq_cache_create("turbo4,tail=64", &options, &cache) != TQ_OK) Fail("create");
  if (tq_cache_append(cache, k, v, kTokens) != TQ_OK) Fail("append");

  float out[kQueryHeads * kDim];
  if (tq_cache_attend(cache, q, 1, kQueryHeads, scale, out, kQueryHeads * kDim) != TQ_OK) {
    Fail("attend");
  }
  double error = 0, energy = 0;
  for (int h = 0; h < kQueryHeads; ++h) {
    double exact[kDim];
    ExactAttention(q + h * kDim, k, v, h * kKvHeads / kQueryHeads, exact);
    for (int i = 0; i < kDim; ++i) {
      error += pow(out[h * kDim + i] - exact[i], 2);
      energy += pow(exact[i], 2);
    }
  }
  const double f16_bytes = 4096.0 * 2 * kWidth * 2;
  printf("policy    %s\n", tq_cache_policy(cache));
  printf("memory    %.2f MiB instead of %.2f MiB\n", (double)tq_cache_memory_bytes(cache) / 1048576,
         f16_bytes / 1048576);
  printf("attention relative error %.4f\n", sqrt(error / energy));

  tq_buffer saved = TQ_BUFFER_INIT;
  tq_cache* other = NULL;
  if (tq_cache_save(cache, &saved) != TQ_OK) Fail("save");
  if (tq_cache_create("turbo4,tail=64", &options, &other) != TQ_OK) Fail("create");
  if (tq_cache_restore(other, saved.data, saved.size) != TQ_OK) Fail("restore");
  float again[kQueryHeads * kDim];
  if (tq_cache_attend(other, q, 1, kQueryHeads, scale, again, kQueryHeads * kDim) != TQ_OK) {
    Fail("attend");
  }
  const int same = memcmp(out, again, sizeof(out)) == 0;
  printf("restored  %zu tokens from %zu bytes, %s answer\n", tq_cache_size(other), saved.size,
         same ? "same" : "ANOTHER");

  tq_buffer_free(&saved);
  tq_cache_destroy(other);
  tq_cache_destroy(cache);
  free(k);
  free(v);
  free(q);
  return same && error < 0.05 * energy ? 0 : 1;
}
