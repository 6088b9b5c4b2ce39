// C API of libturboquant_cuda: attention on codes on NVIDIA GPUs (compute capability 8.0 and up).
//
// Plain C, raw device pointers, streams as void* (a cudaStream_t). Everything is launched into the
// given stream; no function allocates, synchronises or reads device memory on the host, so all of
// them may be captured in a CUDA graph. The library has no global state: one device or many.
//
//   tq_cuda_supports        says yes or why not, before anything is launched
//   tq_cuda_plan_attention  on the host, per batch of lengths: path, splits, workspace size
//   tq_cuda_attend          decode: runs a plan
//   tq_cuda_plan_prefill    on the host: workspace size
//   tq_cuda_prefill         a chunk of new tokens: runs a plan
//   tq_cuda_dense_create    cuDNN, for the dense attention of prefill; loaded on demand
//   tq_cuda_encode          rows -> codes in the paged cache, K and V in one launch
//   tq_cuda_page_means      key means of pages about to be encoded
//   tq_cuda_decode_rows     codes -> rotated or plain rows
//   tq_cuda_scores          inner products of queries with coded keys (estimator)
//   tq_cuda_rotate          rows into rotated space, or back
//   tq_cuda_merge           merges two attention outputs by their log-sum-exp
//
// Programs link libturboquant_cuda, or let libturboquant load it: tq_cuda_load of turboquant.h
// fills tq_cuda_functions below, or says what is missing. This header is installed as
// turboquant/turboquant_cuda.h. Structures belong to TQ_CUDA_API_VERSION: it changes whenever one
// of them does, and tq_cuda_load refuses a library of another version.
//
// Functions return tq_cuda_status. Bytes of the cache: docs/CUDA.md.
#ifndef TURBOQUANT_KERNELS_CUDA_CUDA_API_H_
#define TURBOQUANT_KERNELS_CUDA_CUDA_API_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TQ_CUDA_API_VERSION 3

typedef enum tq_cuda_status {
  TQ_CUDA_OK = 0,
  TQ_CUDA_INVALID = 1,      // impossible arguments
  TQ_CUDA_UNSUPPORTED = 2,  // valid, not served by this build
  TQ_CUDA_FAILED = 3,       // the CUDA runtime refused the launch
} tq_cuda_status;

// Formats of one side. TURBOn: scalar; TURBOnT: trellis.

typedef enum tq_cuda_format {
  TQ_CUDA_TURBO2 = 2,
  TQ_CUDA_TURBO3 = 3,
  TQ_CUDA_TURBO4 = 4,
  TQ_CUDA_TURBO8 = 8,
  TQ_CUDA_TURBO2T = 18,
  TQ_CUDA_TURBO3T = 19,
  TQ_CUDA_TURBO4T = 20,
} tq_cuda_format;

typedef enum tq_cuda_dtype { TQ_CUDA_F16 = 0, TQ_CUDA_BF16 = 1, TQ_CUDA_F32 = 2 } tq_cuda_dtype;

// The rotation of math/rotation.h: x = R^T y, head_dim = m * n, m odd, n a power of two.
typedef struct tq_cuda_rotation {
  int32_t m, n;
  float norm;
  uint32_t negative[8];  // bit i % 32 of word i / 32: sign i is -1
  const float* mix;      // device, [m][m]; null when m == 1
} tq_cuda_rotation;

// The paged cache of one layer. 64 tokens a page; token c of sequence b is token c % 64 of the
// record
//   records + (page_table[b * page_stride + c / 64] * num_kv_heads + head) * record_bytes.
typedef struct tq_cuda_cache {
  int32_t k_format, v_format;  // tq_cuda_format
  int32_t head_dim;            // 64, 80, 96, 128, 192 or 256
  int32_t num_kv_heads;
  void* records;              // device, 16-byte aligned
  const int32_t* page_table;  // device, [batch][page_stride]
  int32_t page_stride;
  tq_cuda_rotation k_rotation, v_rotation;
  // Key means, subtracted before coding: token c of sequence b belongs to mean
  // mean_table[b * mean_stride + c / mean_tokens], -1: none. means: fp16
  // [n][num_kv_heads][head_dim], 16-byte aligned. mean_tokens is a multiple of 64; 0: keys are not
  // centred.
  const uint16_t* means;
  const int32_t* mean_table;
  int32_t mean_stride;
  int32_t mean_tokens;
} tq_cuda_cache;

// Rows of one side held exactly (sinks and the newest tokens): row i of sequence b, head h at
// base + b * sequence_stride + i * token_stride + h * head_stride (in values).
typedef struct tq_cuda_rows {
  const void* k;
  const void* v;
  int32_t dtype;
  int64_t sequence_stride, token_stride, head_stride;
} tq_cuda_rows;

// Attention of q_len query tokens per sequence over {coded tokens, exact rows}.
typedef struct tq_cuda_attention {
  tq_cuda_cache cache;
  int32_t batch;
  int32_t group;  // query heads per kv head, 1..16
  int32_t q_len;  // 1..16
  const void* q;  // [batch][q_len][num_kv_heads * group][head_dim], strides in values
  int32_t q_dtype;
  int64_t q_sequence_stride, q_token_stride, q_head_stride;  // multiples of 8
  void* out;
  int32_t out_dtype;
  int64_t out_sequence_stride, out_token_stride, out_head_stride;
  float* lse;                // natural log, [batch][q_len][heads], contiguous; null: not wanted
  const int32_t* coded_len;  // device, [batch]: coded tokens of each sequence
  const int32_t* total_len;  // device, [batch]: all tokens; null: coded_begin + coded_len
  int32_t coded_begin;       // position of coded token 0 (the number of sinks)
  tq_cuda_rows exact;
  const int32_t* exact_len;       // device, [batch]; null: no exact rows
  const int32_t* exact_position;  // device, [batch][exact_stride] positions; null: the last ones
  int32_t exact_stride;
  float scale;                // of the logits, 1 / sqrt(head_dim) as a rule
  float softcap;              // 0: none
  int32_t window;             // 0: none
  const uint32_t* tree_mask;  // device, [batch][q_len]; null: causal
  const float* sinks;         // device, [heads] logits that take weight and give nothing; null
} tq_cuda_attention;

typedef enum tq_cuda_path {
  TQ_CUDA_PATH_AUTO = 0,
  TQ_CUDA_PATH_INT8 = 1,  // codes to int8 centroids in tensor cores, one launch
  TQ_CUDA_PATH_PAIR = 2,  // codes to fp16, every shape, two launches
} tq_cuda_path;

// What a plan must know on the host. Lengths may be larger than those at the run, never smaller.
typedef struct tq_cuda_plan_request {
  int32_t k_format, v_format, head_dim, num_kv_heads;
  int32_t batch, group, q_len;
  const int32_t* coded_len;  // host, [batch]
  const int32_t* total_len;  // host, [batch]; null: coded_begin + coded_len
  const int32_t* exact_len;  // host, [batch]; null: no exact rows
  int32_t coded_begin;
  int32_t window;
  int32_t path;          // tq_cuda_path
  int32_t reproducible;  // 1: sums in an order that depends on the plan alone
  int32_t num_sms, smem_per_block, smem_per_sm;  // of the device (tq_cuda_query_device)
  int32_t bytes_per_clock;                       // the same; 0: not known
} tq_cuda_plan_request;

// One CTA's share of the work.
typedef struct tq_cuda_item {
  int32_t sequence;
  int32_t head_tile;      // kv head * row_tiles + tile of query rows
  int32_t begin, end;     // pages of the sequence, or exact rows
  int32_t exact;          // 1: begin and end count exact rows
  int32_t first_partial;  // of this sequence and head_tile
  int32_t partials;
  int32_t partial;  // first_partial <= partial < first_partial + partials
} tq_cuda_item;

typedef struct tq_cuda_plan {
  int32_t path;
  int32_t config;    // kernel configuration of the path
  int32_t dynamic;   // 1: the warps of a CTA claim pages at run time
  int32_t row_tile;  // query rows of one kv head that one CTA serves
  int32_t row_tiles;
  int32_t num_items;
  int32_t uniform;      // 1: items follow from the block index, no item list is needed
  int32_t splits;       // uniform: items of one sequence and head
  int32_t first_page;   // uniform
  int32_t split_pages;  // uniform: pages of an item, and of the first split_extra one more
  int32_t split_extra;
  int32_t exact_rows;  // uniform: 0, or rows of the last item
  int32_t num_partials;
  size_t workspace_bytes;  // device; zero it before the first run with it
} tq_cuda_plan;

typedef struct tq_cuda_device {
  int32_t num_sms, smem_per_block, smem_per_sm, compute_capability;  // e.g. 90
  int32_t bytes_per_clock;  // of device memory, for each SM, at the highest clocks; 0: not known
} tq_cuda_device;

// Rows to encode: source row i of sequence b becomes coded token first_token[b] + i, for
// i < num_rows[b]. A page's tokens outside of that stay as they are.
typedef struct tq_cuda_encode_params {
  tq_cuda_cache cache;
  int32_t batch;
  tq_cuda_rows rows;
  const int32_t* row_index;  // device, [batch][index_stride]: source row of row i; null: i itself
  int32_t index_stride;
  const int32_t* first_token;  // device, [batch]
  const int32_t* num_rows;     // device, [batch]
  int32_t max_rows;            // >= every num_rows
  int32_t* bad_rows;           // device counter of rows with NaN or Inf (stored as zeros); null
} tq_cuda_encode_params;

// Means of pages: mean index[i] becomes the average of rows begin[i] .. end[i] of sequence[i].
typedef struct tq_cuda_means_params {
  tq_cuda_cache cache;  // writes through `means`
  tq_cuda_rows rows;    // keys
  int32_t count;
  const int32_t* sequence;  // device, [count]
  const int32_t* begin;     // device, [count]
  const int32_t* end;       // device, [count]
  const int32_t* index;     // device, [count]
} tq_cuda_means_params;

// Tokens [first_token, first_token + num_tokens) of one sequence decoded, K and V, to
// [num_kv_heads][num_tokens][head_dim]; in rotated space, or rotated back with the mean added.
typedef struct tq_cuda_decode_params {
  tq_cuda_cache cache;
  int32_t sequence, first_token, num_tokens;
  int32_t rotated;
  void* k;
  void* v;
  int32_t dtype;
} tq_cuda_decode_params;

// out[r][j] = <q_r, key_j> for the coded keys of one kv head and sequence (no scale, no mask); the
// page mean is included. q f32 [rows][head_dim], at most 4 rows; out f32 [rows][num_tokens].
typedef struct tq_cuda_scores_params {
  tq_cuda_cache cache;
  int32_t sequence, kv_head, num_tokens, rows;
  const float* q;
  float* out;
} tq_cuda_scores_params;

// Rotates rows (forward, or back), f32 or f16/bf16, [count][head_dim] contiguous. In place allowed.
typedef struct tq_cuda_rotate_params {
  tq_cuda_rotation rotation;
  int32_t head_dim;
  int32_t inverse;
  int64_t count;
  const void* in;
  void* out;
  int32_t dtype;
} tq_cuda_rotate_params;

// out = out and other, two softmax averages over disjoint tokens, merged by lse; lse is updated.
typedef struct tq_cuda_merge_params {
  int64_t rows;
  int32_t head_dim;
  void* out;
  int32_t out_dtype;
  float* lse;
  const void* other;
  int32_t other_dtype;
  const float* other_lse;
} tq_cuda_merge_params;

// cuDNN's handle, and the attention graphs it has compiled for the shapes met so far. Belongs to
// the device that was current at its creation; for one thread at a time.
typedef struct tq_cuda_dense tq_cuda_dense;

// Attention of a chunk of new tokens, any number of them, over a prefix of {coded tokens, exact
// rows} and over the chunk itself, causal and exact. The chunks of all sequences lie one behind the
// other: token i of sequence b is row chunk_len[0] + ... + chunk_len[b - 1] + i of q, chunk_k,
// chunk_v, out and lse. Its position is prefix_len[b] + i.
typedef struct tq_cuda_prefill_params {
  tq_cuda_cache cache;
  int32_t batch;
  int32_t group;              // query heads per kv head, 1..64
  const int32_t* chunk_len;   // host, [batch]: new tokens
  const int32_t* coded_len;   // host, [batch]: coded tokens
  const int32_t* exact_len;   // host, [batch]; null: no exact rows in front of the chunk
  const int32_t* prefix_len;  // host, [batch]: all tokens before; null: coded_begin + coded_len
  int32_t coded_begin;        // position of coded token 0 (the number of sinks)
  int32_t dtype;              // f16 or bf16: of q, the chunk and the exact rows
  const void* q;              // [token][num_kv_heads * group][head_dim]; strides in values,
  int64_t q_token_stride, q_head_stride;  // multiples of 8
  const void* chunk_k;                    // [token][num_kv_heads][head_dim]
  const void* chunk_v;
  int64_t chunk_token_stride, chunk_head_stride;
  tq_cuda_rows exact;             // dtype as above
  const int32_t* exact_position;  // device, [batch][exact_stride]; null: the last before the chunk
  int32_t exact_stride;
  void* out;
  int32_t out_dtype;
  int64_t out_token_stride, out_head_stride;
  float* lse;            // natural log, [token][heads], contiguous; null: not wanted
  float scale;           // of the logits, above 0
  float softcap;         // 0: none
  int32_t window;        // 0: none
  const float* sinks;    // device, [heads]; null
  size_t scratch_bytes;  // most memory for decoded rows of the prefix; 0: 64 MiB
  tq_cuda_dense* dense;  // attends the windows of the prefix that it serves; null: none
  int64_t dense_least;   // fewest (query row, key) pairs of a call of it; 0: 2^20
} tq_cuda_prefill_params;

typedef struct tq_cuda_prefill_plan {
  int32_t window_tokens;   // coded tokens decoded at a time
  int32_t chunk_tokens;    // of all sequences
  int32_t dense_rows;      // most query rows of a call of cuDNN; 0: it is not called
  size_t dense_bytes;      // cuDNN's own share of the workspace
  size_t workspace_bytes;  // device, 256-byte aligned; need not be zeroed
} tq_cuda_prefill_plan;

#if defined(_WIN32)
#define TQ_CUDA_EXPORT __declspec(dllexport)
#else
#define TQ_CUDA_EXPORT __attribute__((visibility("default")))
#endif

TQ_CUDA_EXPORT int32_t tq_cuda_api_version(void);

// TQ_CUDA_OK if the current device can run this library. Otherwise reason (at least 160 bytes; may
// be null) says in a sentence what is missing: driver, GPU, compute capability, code for this GPU.
TQ_CUDA_EXPORT tq_cuda_status tq_cuda_check_device(char* reason, size_t reason_bytes);

// The current device.
TQ_CUDA_EXPORT tq_cuda_status tq_cuda_query_device(tq_cuda_device* device);

// Fills a rotation; mix (m * m floats, host) is to be copied to the device by the caller when m
// > 1.
TQ_CUDA_EXPORT tq_cuda_status tq_cuda_make_rotation(int32_t head_dim, uint64_t seed,
                                                    tq_cuda_rotation* rotation, float* mix);

TQ_CUDA_EXPORT size_t tq_cuda_record_bytes(int32_t k_format, int32_t v_format, int32_t head_dim);

// TQ_CUDA_OK, or why not in one sentence (reason: at least 160 bytes; may be null).
TQ_CUDA_EXPORT tq_cuda_status tq_cuda_supports(const tq_cuda_plan_request* request, char* reason,
                                               size_t reason_bytes);

// items: host, room for *num_items of them; *num_items in: capacity, out: how many there are.
// With items null only the count is given. Copy them to the device before the run.
TQ_CUDA_EXPORT tq_cuda_status tq_cuda_plan_attention(const tq_cuda_plan_request* request,
                                                     tq_cuda_plan* plan, tq_cuda_item* items,
                                                     int32_t* num_items);

// items: device, those of the plan (null when the plan is uniform).
TQ_CUDA_EXPORT tq_cuda_status tq_cuda_attend(const tq_cuda_plan* plan,
                                             const tq_cuda_attention* params,
                                             const tq_cuda_item* items, void* workspace,
                                             void* stream);

// Loads cuDNN 9.10.2 or newer for the current device. cudnn: the library or the folder that holds it;
// null: where the system looks. TQ_CUDA_UNSUPPORTED: it is missing, or this library was built
// without it; reason says so in one sentence (at least 160 bytes; may be null).
TQ_CUDA_EXPORT tq_cuda_status tq_cuda_dense_create(const char* cudnn, tq_cuda_dense** dense,
                                                   char* reason, size_t reason_bytes);

// Work that uses it must be done. Null is allowed.
TQ_CUDA_EXPORT void tq_cuda_dense_destroy(tq_cuda_dense* dense);

// Plans from the shape and the lengths alone: device pointers may still be null. reason: as for
// tq_cuda_supports. With params->dense this compiles what cuDNN needs for a shape not met before
// (tenths of a second, once); what cuDNN declines is planned without it.
TQ_CUDA_EXPORT tq_cuda_status tq_cuda_plan_prefill(const tq_cuda_prefill_params* params,
                                                   tq_cuda_prefill_plan* plan, char* reason,
                                                   size_t reason_bytes);

// The lengths, and dense, must be those of the plan.
TQ_CUDA_EXPORT tq_cuda_status tq_cuda_prefill(const tq_cuda_prefill_plan* plan,
                                              const tq_cuda_prefill_params* params, void* workspace,
                                              void* stream);

TQ_CUDA_EXPORT tq_cuda_status tq_cuda_encode(const tq_cuda_encode_params* params, void* stream);
TQ_CUDA_EXPORT tq_cuda_status tq_cuda_page_means(const tq_cuda_means_params* params, void* stream);
TQ_CUDA_EXPORT tq_cuda_status tq_cuda_decode_rows(const tq_cuda_decode_params* params,
                                                  void* stream);
TQ_CUDA_EXPORT tq_cuda_status tq_cuda_scores(const tq_cuda_scores_params* params, void* stream);
TQ_CUDA_EXPORT tq_cuda_status tq_cuda_rotate(const tq_cuda_rotate_params* params, void* stream);
TQ_CUDA_EXPORT tq_cuda_status tq_cuda_merge(const tq_cuda_merge_params* params, void* stream);

// Every function above, as tq_cuda_load (turboquant.h) found it: attend is tq_cuda_attend, and so
// on.
typedef struct tq_cuda_functions {
  size_t struct_size;
  int32_t (*api_version)(void);
  tq_cuda_status (*check_device)(char* reason, size_t reason_bytes);
  tq_cuda_status (*query_device)(tq_cuda_device* device);
  tq_cuda_status (*make_rotation)(int32_t head_dim, uint64_t seed, tq_cuda_rotation* rotation,
                                  float* mix);
  size_t (*record_bytes)(int32_t k_format, int32_t v_format, int32_t head_dim);
  tq_cuda_status (*supports)(const tq_cuda_plan_request* request, char* reason,
                             size_t reason_bytes);
  tq_cuda_status (*plan_attention)(const tq_cuda_plan_request* request, tq_cuda_plan* plan,
                                   tq_cuda_item* items, int32_t* num_items);
  tq_cuda_status (*attend)(const tq_cuda_plan* plan, const tq_cuda_attention* params,
                           const tq_cuda_item* items, void* workspace, void* stream);
  tq_cuda_status (*plan_prefill)(const tq_cuda_prefill_params* params, tq_cuda_prefill_plan* plan,
                                 char* reason, size_t reason_bytes);
  tq_cuda_status (*prefill)(const tq_cuda_prefill_plan* plan, const tq_cuda_prefill_params* params,
                            void* workspace, void* stream);
  tq_cuda_status (*encode)(const tq_cuda_encode_params* params, void* stream);
  tq_cuda_status (*page_means)(const tq_cuda_means_params* params, void* stream);
  tq_cuda_status (*decode_rows)(const tq_cuda_decode_params* params, void* stream);
  tq_cuda_status (*scores)(const tq_cuda_scores_params* params, void* stream);
  tq_cuda_status (*rotate)(const tq_cuda_rotate_params* params, void* stream);
  tq_cuda_status (*merge)(const tq_cuda_merge_params* params, void* stream);
  tq_cuda_status (*dense_create)(const char* cudnn, tq_cuda_dense** dense, char* reason,
                                 size_t reason_bytes);
  void (*dense_destroy)(tq_cuda_dense* dense);
} tq_cuda_functions;
#define TQ_CUDA_FUNCTIONS_INIT                                                                   \
  {                                                                                              \
    sizeof(tq_cuda_functions), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
        NULL, NULL, NULL, NULL, NULL, NULL, NULL                                                 \
  }

#ifdef __cplusplus
}
#endif

#endif  // TURBOQUANT_KERNELS_CUDA_CUDA_API_H_
