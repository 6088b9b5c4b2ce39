/* turboquant: vectors and KV caches in 1 to 8 bits a value. The C interface (C11).
 *
 * A random rotation spreads the energy of a row evenly over its values; each value then takes the
 * index of its Lloyd-Max cell, and the row one or two fp16 scales (TurboQuant, arXiv 2504.19874).
 *
 *   tq_codec      rows of head_dim floats to bytes and back; inner products and attention on the
 *                 bytes, without decoding rows to their original space
 *   tq_estimator  a codec whose inner products are unbiased: quantize, inner_product, dequantize
 *   tq_cache      the compressed KV cache of one attention layer and one sequence
 *   tq_compress   a whole array to one checked block of bytes (the same as a .tq file) and back
 *   tq_cuda_load  encoding and attention on NVIDIA GPUs, over device pointers
 *
 * Conventions, for every function unless it says otherwise:
 *
 * - Floats are IEEE binary32 in host order, arrays are dense and row-major, [n][d] is n rows of d.
 *   Outputs must not overlap inputs. Coded rows are little-endian bytes of any alignment; their
 *   layout is docs/FORMAT.md and is the same on every machine.
 * - Functions return a tq_status. On failure the outputs are unspecified unless stated, handles
 * stay usable, and tq_last_error() has one sentence for people: what is wrong, and the remedy.
 *   TQ_ERROR_INVALID_ARGUMENT stands for a null pointer where none is allowed, too.
 * - Nothing here prints, reads the environment, ends the process or lets a C++ exception out.
 * - Handles are freed by their own destroy function, which takes NULL. A codec or estimator is
 *   immutable: any number of threads may use it at once. A cache belongs to one thread at a time.
 * - Structures that can grow start with `struct_size`, to be set to their sizeof (the *_INIT macros
 *   do): a program compiled against an older header keeps working with a newer library. A newer
 *   program with an older library is refused with TQ_ERROR_UNSUPPORTED if it uses a field that this
 *   library does not know, i.e. one that is not zero.
 *
 * Versions: while the major version is 0, minor versions may break; from 1 on the ABI of
 * libturboquant.so.N holds for all versions N.x. Formats of stored bytes have their own versions
 * and stay readable.
 */
#ifndef TURBOQUANT_TURBOQUANT_H_
#define TURBOQUANT_TURBOQUANT_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define TQ_API __attribute__((visibility("default")))
#else
#define TQ_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define TQ_VERSION_MAJOR 0
#define TQ_VERSION_MINOR 1
#define TQ_VERSION_PATCH 0
#define TQ_VERSION (TQ_VERSION_MAJOR * 10000 + TQ_VERSION_MINOR * 100 + TQ_VERSION_PATCH)

/* Version of the library at run time, to compare with TQ_VERSION; and as text, "0.1.0". */
TQ_API int32_t tq_version(void);
TQ_API const char* tq_version_string(void);

/* ---- errors ---- */

typedef int32_t tq_status;
enum {
  TQ_OK = 0,
  TQ_ERROR_INVALID_ARGUMENT = 1, /* impossible whatever the machine: null, unknown spec, a shape */
  TQ_ERROR_UNSUPPORTED = 2,      /* valid, but not by this build or machine */
  TQ_ERROR_CORRUPT = 3,          /* stored bytes fail their checksum or contradict themselves */
  TQ_ERROR_OUT_OF_MEMORY = 4,
  TQ_ERROR_NOT_FOUND = 5,
  TQ_ERROR_INTERNAL = 6,        /* a bug of this library */
  TQ_ERROR_BUFFER_TOO_SMALL = 7 /* an output or input buffer is shorter than the shape needs */
};

/* What the last failing call of this thread said; "" if none failed yet. Calls that succeed leave
 * it alone. Valid until the next call of this thread that fails. At most 511 bytes, UTF-8. */
TQ_API const char* tq_last_error(void);

/* "invalid argument", ...; "unknown status" for a number that is none. Static. */
TQ_API const char* tq_status_name(tq_status status);

/* ---- callbacks ---- */

/* Where handles, the memory of caches and tq_buffers come from: all memory that outlives a call and
 * grows with the data. Tables of a codec (up to 8 head_dim^2 bytes, with rotation=haar or
 * projection=gaussian) and scratch within a call come from C++'s operator new.
 *
 * allocate: `bytes` > 0 aligned to `alignment`, a power of two; NULL if there is none, which
 * becomes TQ_ERROR_OUT_OF_MEMORY. deallocate: a block of allocate with the same numbers. Both may
 * be called from any thread that uses the handle and must not throw. The structure is copied;
 * `context` must outlive every handle and buffer made with it. */
typedef struct tq_allocator {
  size_t struct_size;
  void* context;
  void* (*allocate)(void* context, size_t bytes, size_t alignment);
  void (*deallocate)(void* context, void* block, size_t bytes, size_t alignment);
} tq_allocator;

typedef int32_t tq_log_level;
enum { TQ_LOG_ERROR = 0, TQ_LOG_WARNING = 1, TQ_LOG_INFO = 2 };

/* Receives messages of at most `level`: what was made (info) and rows that had to be stored as
 * zeros (warning). Called from the thread of the call that has something to say; must not throw nor
 * call into the handle. The structure is copied; `context` must outlive the handle. */
typedef struct tq_logger {
  size_t struct_size;
  void* context;
  tq_log_level level;
  void (*log)(void* context, tq_log_level level, const char* message);
} tq_logger;

/* What every handle can be given. NULL where an options pointer is asked for means these defaults.
 */
typedef struct tq_options {
  size_t struct_size;
  const tq_allocator* allocator; /* NULL: operator new */
  const tq_logger* logger;       /* NULL: silent */
} tq_options;
#define TQ_OPTIONS_INIT \
  { sizeof(tq_options), NULL, NULL }

/* Bytes that the library allocated for the caller. Zero it before first use (TQ_BUFFER_INIT); a
 * function that fills it overwrites it without freeing. */
typedef struct tq_buffer {
  void* data;
  size_t size;       /* bytes */
  void* reserved[3]; /* how to free it */
} tq_buffer;
#define TQ_BUFFER_INIT            \
  {                               \
    NULL, 0, { NULL, NULL, NULL } \
  }

/* Frees the bytes and zeroes the structure. NULL and empty buffers are fine. */
TQ_API void tq_buffer_free(tq_buffer* buffer);

/* ---- codecs ---- */

typedef struct tq_codec tq_codec;

/* The names a spec may start with, best for a cache first: turbo3, turbo3t, turbo3q, ...; a name is
 * NULL from index tq_codec_count() on. summary: one line about it. Static. */
TQ_API size_t tq_codec_count(void);
TQ_API const char* tq_codec_name(size_t index);
TQ_API const char* tq_codec_summary(size_t index);

/* A codec from a spec: a name and options, "turbo3", "turbo4:scale=unbiased", "turbo2t:states=16",
 * "turbo3:rotation=haar,seed=7" (docs/API.md, "Codecs"). head_dim: values of a row, a multiple of 16
 * from 16 to 1024 whose odd part is at most 63 (64, 80, 96, 128, 192, 256, 576, 768, 1024, ...).
 * Errors: INVALID_ARGUMENT (spec, head_dim; the message names what is allowed), OUT_OF_MEMORY. */
TQ_API tq_status tq_codec_create(const char* spec, int32_t head_dim, const tq_options* options,
                                 tq_codec** codec);
TQ_API void tq_codec_destroy(tq_codec* codec);

typedef struct tq_codec_info {
  size_t struct_size;
  size_t row_bytes;      /* of one coded row, scales included: everything that is stored */
  double bits_per_value; /* 8 * row_bytes / head_dim */
  int32_t head_dim;
  int32_t scales_per_row; /* fp16 numbers in a row */
  int32_t unbiased;       /* 1: inner products are unbiased over the seed, see tq_estimator */
  int32_t reserved;
} tq_codec_info;
#define TQ_CODEC_INFO_INIT \
  { sizeof(tq_codec_info), 0, 0.0, 0, 0, 0, 0 }

/* Fills what fits into info->struct_size bytes. */
TQ_API tq_status tq_codec_get_info(const tq_codec* codec, tq_codec_info* info);

/* The canonical spec; it makes the same codec. Lives as long as the codec. NULL for NULL. */
TQ_API const char* tq_codec_spec(const tq_codec* codec);

/* x[n][head_dim] to n * row_bytes bytes at rows. A row with NaN or Inf, or whose energy is beyond
 * float, is stored as zeros: *invalid_rows (may be NULL) counts them, the status stays TQ_OK and no
 * other row is touched. Rows are independent of each other; equal rows give equal bytes.
 * Errors: BUFFER_TOO_SMALL if rows_size < n * row_bytes. */
TQ_API tq_status tq_codec_encode(const tq_codec* codec, const float* x, size_t n, void* rows,
                                 size_t rows_size, size_t* invalid_rows);

/* n coded rows to x[n][head_dim]. Any bytes decode to something finite or not; only bytes of
 * tq_codec_encode mean anything. Errors: BUFFER_TOO_SMALL if rows_size < n * row_bytes. */
TQ_API tq_status tq_codec_decode(const tq_codec* codec, const void* rows, size_t rows_size,
                                 size_t n, float* x);

/* scores[j] = estimate of <query, x_j>, query[head_dim], for n coded rows: equal to the inner
 * product with the decoded row, without leaving the rotated space. Relative errors shrink with
 * head_dim: variance about D |query|^2 |x|^2 / head_dim, D the distortion of the codec (turbo3:
 * 0.034; `turboquant validate` measures all). Errors: BUFFER_TOO_SMALL. */
TQ_API tq_status tq_codec_inner_products(const tq_codec* codec, const float* query,
                                         const void* rows, size_t rows_size, size_t n,
                                         float* scores);

/* Attention of one query head over n coded rows:
 *   out = sum_j w_j v_j,  w = softmax(scale * <query, k_j> + bias_j)
 * Keys and values may have different codecs and sizes; rows are never decoded to their own space.
 * n = 0, or a bias of -inf everywhere, gives zeros. */
typedef struct tq_attention {
  size_t struct_size;
  const tq_codec* k_codec;
  const void* k_rows; /* n rows */
  size_t k_rows_size; /* bytes */
  const tq_codec* v_codec;
  const void* v_rows;
  size_t v_rows_size;
  size_t n;           /* tokens */
  const float* query; /* [head_dim of k_codec] */
  const float* bias;  /* [n] added to the logits (mask: -inf); NULL: none */
  float scale;        /* usually 1 / sqrt(head_dim) */
  float reserved;     /* 0 */
  float* out;         /* [head_dim of v_codec] */
  float* weights;     /* [n], the softmax weights w; NULL: not wanted */
} tq_attention;

/* Errors: INVALID_ARGUMENT (a null field), BUFFER_TOO_SMALL. */
TQ_API tq_status tq_attend(const tq_attention* attention);

/* ---- estimators ---- */

typedef struct tq_estimator tq_estimator;

/* A codec of which it is certain that inner products are unbiased: E over the random rotation (the
 * seed of the spec) of the estimate is the inner product. The product codecs turbo2q, turbo3q,
 * turbo4q (arXiv 2504.19874, algorithm 2, with QJL, arXiv 2406.03482) are, and every Lloyd-Max or
 * trellis codec with scale=unbiased (EDEN), which has less variance at equal bits. Errors: as
 * tq_codec_create, and INVALID_ARGUMENT for a codec that is biased. */
TQ_API tq_status tq_estimator_create(const char* spec, int32_t head_dim, const tq_options* options,
                                     tq_estimator** estimator);
TQ_API void tq_estimator_destroy(tq_estimator* estimator);

/* The codec inside, for sizes and attention; lives as long as the estimator. NULL for NULL. */
TQ_API const tq_codec* tq_estimator_codec(const tq_estimator* estimator);

/* tq_codec_encode, tq_codec_inner_products and tq_codec_decode under the names of the field. */
TQ_API tq_status tq_estimator_quantize(const tq_estimator* estimator, const float* x, size_t n,
                                       void* rows, size_t rows_size, size_t* invalid_rows);
TQ_API tq_status tq_estimator_inner_product(const tq_estimator* estimator, const float* query,
                                            const void* rows, size_t rows_size, size_t n,
                                            float* scores);
TQ_API tq_status tq_estimator_dequantize(const tq_estimator* estimator, const void* rows,
                                         size_t rows_size, size_t n, float* x);

/* ---- arrays ---- */

/* Compresses an array of any shape, x[shape[0]]...[shape[num_dims - 1]], 1 <= num_dims <= 8, into
 * one self-describing block with checksums: docs/FORMAT.md, "Row file". The last dimension is cut
 * into rows of head_dim values, which must divide it; head_dim 0 takes the largest that a codec
 * supports. Free the block with tq_buffer_free; it may be written to a .tq file as it is. Errors:
 * INVALID_ARGUMENT (spec, shape), OUT_OF_MEMORY. *invalid_rows as in tq_codec_encode. */
TQ_API tq_status tq_compress(const float* x, const size_t* shape, size_t num_dims, const char* spec,
                             int32_t head_dim, const tq_options* options, tq_buffer* compressed,
                             size_t* invalid_rows);

typedef struct tq_array_info {
  size_t struct_size;
  size_t num_values;
  size_t num_dims;
  size_t shape[8]; /* [num_dims], the others are 0 */
  size_t rows;     /* num_values / head_dim */
  size_t row_bytes;
  double bits_per_value; /* of the whole block: rows, header and checksums */
  int32_t head_dim;
  int32_t reserved;
  char spec[128]; /* canonical; cut off if longer */
} tq_array_info;

/* What a compressed block says of itself; reads the header alone. Errors: CORRUPT (not such a
 * block, cut off, header altered), UNSUPPORTED (written by a newer version). */
TQ_API tq_status tq_compressed_info(const void* compressed, size_t size, tq_array_info* info);

/* Checks every checksum, then decodes all values to x[num_values]. Errors: CORRUPT (says which rows
 * are damaged; x is untouched), BUFFER_TOO_SMALL if values < num_values. */
TQ_API tq_status tq_decompress(const void* compressed, size_t size, float* x, size_t values);

/* ---- KV cache ---- */

typedef struct tq_cache tq_cache;

typedef struct tq_cache_options {
  size_t struct_size;
  int32_t num_kv_heads; /* at least 1 */
  int32_t head_dim_k;   /* as for tq_codec_create */
  int32_t head_dim_v;
  int32_t capacity;              /* tokens, at least 1 */
  uint64_t seed;                 /* of the rotation; give every layer its own */
  const tq_allocator* allocator; /* NULL: operator new */
  const tq_logger* logger;       /* NULL: silent */
} tq_cache_options;
#define TQ_CACHE_OPTIONS_INIT \
  { sizeof(tq_cache_options), 0, 0, 0, 0, 1, NULL, NULL }

/* The cache of one layer and one sequence. policy: what is coded how and what stays exact, e.g.
 * "balanced", "turbo3", "k=turbo4,v=turbo3,sink=4,tail=128,center=on" (README, "Choosing a
 * format"). The first `sink` and the newest `tail` tokens are held exact (f16) and encoded when
 * they leave this window. All memory of `capacity` tokens is allocated here, once. Errors:
 * INVALID_ARGUMENT (policy, capacity), UNSUPPORTED (a shape that cannot be coded), OUT_OF_MEMORY.
 */
TQ_API tq_status tq_cache_create(const char* policy, const tq_cache_options* options,
                                 tq_cache** cache);
TQ_API void tq_cache_destroy(tq_cache* cache);

/* The canonical policy; lives as long as the cache. NULL for NULL. */
TQ_API const char* tq_cache_policy(const tq_cache* cache);

/* Tokens held. 0 for NULL. */
TQ_API size_t tq_cache_size(const tq_cache* cache);

/* Bytes that codes, scales, means, window and bookkeeping of `capacity` tokens take, all of them
 * allocated at creation. 0 for NULL. The same in f16 takes 2 bytes a value. */
TQ_API size_t tq_cache_memory_bytes(const tq_cache* cache);

/* Appends n tokens: k[n][num_kv_heads][head_dim_k], v[n][num_kv_heads][head_dim_v], keys after
 * their position encoding. Values are rounded to f16. Errors, both without effect: INVALID_ARGUMENT
 * if the capacity would be exceeded. */
TQ_API tq_status tq_cache_append(tq_cache* cache, const float* k, const float* v, size_t n);

/* Logits of the newest `tokens` positions, before softmax:
 *   scores[t][h][j] = scale * <q[t][h], k_j of head h / (num_q_heads / num_kv_heads)>
 * q[tokens][num_q_heads][head_dim_k], scores[tokens][num_q_heads][size]; positions j that token t
 * may not see, j > size - tokens + t, get -inf. scores_size: floats at scores. Errors:
 * INVALID_ARGUMENT (tokens not in 1..size, num_q_heads no multiple), BUFFER_TOO_SMALL. */
TQ_API tq_status tq_cache_attention_scores(tq_cache* cache, const float* q, size_t tokens,
                                           size_t num_q_heads, float scale, float* scores,
                                           size_t scores_size);

/* Causal attention of the newest `tokens` positions (the last one sees all): q as above,
 * out[tokens][num_q_heads][head_dim_v]. scale: usually 1 / sqrt(head_dim_k). out_size: floats.
 * Errors: as tq_cache_attention_scores. */
TQ_API tq_status tq_cache_attend(tq_cache* cache, const float* q, size_t tokens, size_t num_q_heads,
                                 float scale, float* out, size_t out_size);

/* The content as bytes, exact to the bit (docs/FORMAT.md, "Saved cache"); free with tq_buffer_free.
 * Errors: OUT_OF_MEMORY. */
TQ_API tq_status tq_cache_save(const tq_cache* cache, tq_buffer* saved);

/* Replaces the content by saved bytes of a cache of the same heads, head_dims and policy; capacity
 * and seed may differ (rows of another seed are coded anew). After an error the cache is empty.
 * Errors: CORRUPT (cut off or altered), INVALID_ARGUMENT (another shape or policy, too many
 * tokens). */
TQ_API tq_status tq_cache_restore(tq_cache* cache, const void* saved, size_t size);

/* Makes `to` an exact copy of `from`, e.g. to branch a sequence: same shape, policy and seed.
 * Errors: INVALID_ARGUMENT if they differ; `to` is then unchanged. */
TQ_API tq_status tq_cache_copy(tq_cache* to, const tq_cache* from);

/* Forgets all tokens; the memory stays. */
TQ_API tq_status tq_cache_clear(tq_cache* cache);

/* ---- NVIDIA GPUs ---- */

/* The functions of libturboquant_cuda, declared in turboquant/turboquant_cuda.h. */
struct tq_cuda_functions;

/* Loads libturboquant_cuda (once; it stays loaded) and finds its functions, if the current device
 * can run them. path: the library's file; NULL looks beside this library, then where the system's
 * loader looks. Initialise functions with TQ_CUDA_FUNCTIONS_INIT; they are set on success alone.
 * Errors: NOT_FOUND (no such library, or it cannot be loaded), UNSUPPORTED (another release; no
 * driver, no GPU, or one that is too old: the message says which), INVALID_ARGUMENT. */
TQ_API tq_status tq_cuda_load(const char* path, struct tq_cuda_functions* functions);

#ifdef __cplusplus
}
#endif

#endif /* TURBOQUANT_TURBOQUANT_H_ */
