// Speed of prefill on CUDA: a chunk of new tokens over a compressed prefix, with windows attended
// by our kernel and by cuDNN, beside decompressing the whole prefix. Every timed shape is checked
// against the double reference first. What dense kernels need for the same is measured by
// cuda_prefill_baselines.py.
//
//   cuda_prefill_speed [--quick] [--cudnn libcudnn.so.9, or its folder] OUT.json
#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <string>

#include "kernels/cuda/prefill_reference.h"
#include "tests/cuda/cuda_case.h"
#include "tests/cuda/device_buffer.h"

namespace turboquant::cuda {
namespace {

constexpr int kRepeats = 9;

__device__ uint32_t Mix(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

__global__ void FillNormal(__nv_bfloat16* out, size_t n, uint32_t seed) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < n;
       i += size_t{gridDim.x} * blockDim.x) {
    const uint32_t a = Mix(static_cast<uint32_t>(i) ^ Mix(seed)), b = Mix(a + 0x9e3779b9u);
    const float u = static_cast<float>(a >> 8) * 0x1p-24f + 0x1p-26f;
    out[i] = __float2bfloat16(sqrtf(-2.0f * logf(u)) *
                              cospif(2.0f * static_cast<float>(b >> 8) * 0x1p-24f));
  }
}

struct Shape {
  int format, head_dim, kv_heads, group, prefix, chunk;
  size_t scratch_bytes;
};

template <typename Record>
double MedianMicroseconds(const Record& record) {
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<float> times;
  for (int i = 0; i < kRepeats + 2; ++i) {
    cudaEventRecord(begin);
    record();
    cudaEventRecord(end);
    CheckCuda(cudaEventSynchronize(end), "timing");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i > 1) times.push_back(ms * 1000.0f);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

class PrefillBench {
 public:
  PrefillBench(const Shape& s, tq_cuda_dense* dense) : s_(s), dense_(dense) {
    pages_ = (s.prefix + kTileTokens - 1) / kTileTokens;
    record_bytes_ = tq_cuda_record_bytes(s.format, s.format, s.head_dim);
    records_ = DeviceBuffer<uint8_t>(static_cast<size_t>(pages_) * s.kv_heads * record_bytes_);
    table_host_.resize(static_cast<size_t>(pages_));
    std::iota(table_host_.begin(), table_host_.end(), 0);
    std::mt19937 random(7);
    std::shuffle(table_host_.begin(), table_host_.end(), random);
    table_ = DeviceBuffer<int32_t>(table_host_);
    const size_t width = static_cast<size_t>(s.kv_heads) * s.head_dim;
    source_ = DeviceBuffer<__nv_bfloat16>(2 * static_cast<size_t>(s.prefix + s.chunk) * width);
    FillNormal<<<1024, 256>>>(source_.get(), source_.size(), 1);
    q_ = DeviceBuffer<__nv_bfloat16>(static_cast<size_t>(s.chunk) * width * s.group);
    FillNormal<<<256, 256>>>(q_.get(), q_.size(), 2);
    out_ = DeviceBuffer<uint16_t>(q_.size() * 2);
    float mix[64 * 64];
    tq_cuda_make_rotation(s.head_dim, 1, &rotation_, mix);
    Encode();
  }

  tq_cuda_prefill_params Params(bool dense) const {
    tq_cuda_prefill_params p{};
    const int64_t d = s_.head_dim, width = d * s_.kv_heads;
    p.cache = Cache();
    p.batch = 1;
    p.group = s_.group;
    p.chunk_len = &s_.chunk;
    p.coded_len = &s_.prefix;
    p.dtype = TQ_CUDA_BF16;
    p.q = q_.get();
    p.q_head_stride = p.out_head_stride = p.chunk_head_stride = d;
    p.q_token_stride = p.out_token_stride = width * s_.group;
    p.chunk_token_stride = width;
    p.chunk_k = source_.get() + static_cast<size_t>(s_.prefix) * width;
    p.chunk_v = source_.get() + static_cast<size_t>(2 * s_.prefix + s_.chunk) * width;
    p.out = out_.get();
    p.out_dtype = TQ_CUDA_BF16;
    p.scale = 1.0f / std::sqrt(static_cast<float>(d));
    p.scratch_bytes = s_.scratch_bytes;
    p.dense = dense ? dense_ : nullptr;
    return p;
  }

  // False: cuDNN serves no window of the shape.
  bool Served() const {
    const tq_cuda_prefill_params p = Params(true);
    tq_cuda_prefill_plan plan{};
    tq_cuda_plan_prefill(&p, &plan, nullptr, 0);
    return plan.dense_rows > 0;
  }

  double Time(bool dense, int* windows) {
    const tq_cuda_prefill_params p = Params(dense);
    tq_cuda_prefill_plan plan{};
    tq_cuda_plan_prefill(&p, &plan, nullptr, 0);
    DeviceBuffer<uint8_t> workspace(plan.workspace_bytes);
    *windows = (s_.prefix + plan.window_tokens - 1) / plan.window_tokens;
    return MedianMicroseconds([&] {
      if (tq_cuda_prefill(&plan, &p, workspace.get(), nullptr) != TQ_CUDA_OK) {
        CheckCuda(cudaErrorUnknown, "prefill");
      }
    });
  }

  // All rows of the prefix into bf16, rotated back: what comes before a dense kernel elsewhere.
  double TimeDecompress() {
    const size_t values = static_cast<size_t>(s_.prefix) * s_.kv_heads * s_.head_dim;
    DeviceBuffer<uint16_t> k(values), v(values);
    tq_cuda_decode_params p{};
    p.cache = Cache();
    p.num_tokens = s_.prefix;
    p.k = k.get();
    p.v = v.get();
    p.dtype = TQ_CUDA_BF16;
    return MedianMicroseconds([&] { tq_cuda_decode_rows(&p, nullptr); });
  }

  // Worst relative error of some query tokens of one kv head.
  double Check(bool dense) {
    tq_cuda_prefill_params p = Params(dense);
    DeviceBuffer<float> out(q_.size());
    p.out = out.get();
    p.out_dtype = TQ_CUDA_F32;
    tq_cuda_prefill_plan plan{};
    tq_cuda_plan_prefill(&p, &plan, nullptr, 0);
    DeviceBuffer<uint8_t> workspace(plan.workspace_bytes);
    if (tq_cuda_prefill(&plan, &p, workspace.get(), nullptr) != TQ_CUDA_OK) return 1e30;
    const int head = s_.kv_heads / 2;
    const std::vector<uint8_t> records = records_.Download();
    std::vector<uint8_t> mine;
    for (int i = 0; i < pages_; ++i) {
      const uint8_t* from =
          records.data() + (static_cast<size_t>(i) * s_.kv_heads + head) * record_bytes_;
      mine.insert(mine.end(), from, from + record_bytes_);
    }
    const std::vector<__nv_bfloat16> source = source_.Download(), q = q_.Download();
    const std::vector<float> got = out.Download();
    tq_cuda_prefill_params host = Params(false);
    const int64_t d = s_.head_dim, width = d * s_.kv_heads;
    host.cache.num_kv_heads = 1;
    host.cache.records = mine.data();
    host.cache.page_table = table_host_.data();
    host.q = q.data() + int64_t{head} * s_.group * d;
    host.chunk_k = source.data() + s_.prefix * width + head * d;
    host.chunk_v = source.data() + (int64_t{2} * s_.prefix + s_.chunk) * width + head * d;
    const std::vector<int> tokens = {0, s_.chunk / 2 + 1, s_.chunk - 1};
    const ReferenceOutput want = PrefillReference(host, tokens);
    double worst = 0;
    for (size_t i = 0; i < tokens.size() * s_.group; ++i) {
      const int64_t at = tokens[i / s_.group] * width * s_.group +
                         (int64_t{head} * s_.group + static_cast<int64_t>(i % s_.group)) * d;
      double error = 0, norm = 0;
      for (int64_t j = 0; j < d; ++j) {
        const double w = want.out[i * d + j];
        error += (got[at + j] - w) * (got[at + j] - w);
        norm += w * w;
      }
      const double e = std::sqrt(error / norm);
      worst = e <= worst ? worst : e == e ? e : 1e30;
    }
    return worst;
  }

 private:
  tq_cuda_cache Cache() const {
    tq_cuda_cache c{};
    c.k_format = c.v_format = s_.format;
    c.head_dim = s_.head_dim;
    c.num_kv_heads = s_.kv_heads;
    c.records = records_.get();
    c.page_table = table_.get();
    c.page_stride = pages_;
    c.k_rotation = c.v_rotation = rotation_;
    return c;
  }

  void Encode() {
    const int32_t zero = 0;
    const DeviceBuffer<int32_t> first(std::vector<int32_t>{zero}),
        rows(std::vector<int32_t>{s_.prefix});
    tq_cuda_encode_params p{};
    p.cache = Cache();
    p.batch = 1;
    p.rows.k = source_.get();
    p.rows.v =
        source_.get() + static_cast<size_t>(s_.prefix + s_.chunk) * s_.kv_heads * s_.head_dim;
    p.rows.dtype = TQ_CUDA_BF16;
    p.rows.head_stride = s_.head_dim;
    p.rows.token_stride = int64_t{s_.kv_heads} * s_.head_dim;
    p.first_token = first.get();
    p.num_rows = rows.get();
    p.max_rows = s_.prefix;
    CheckCuda(tq_cuda_encode(&p, nullptr) == TQ_CUDA_OK ? cudaSuccess : cudaErrorUnknown, "encode");
    CheckCuda(cudaDeviceSynchronize(), "encode");
  }

  Shape s_;
  tq_cuda_dense* dense_;
  int pages_ = 0;
  size_t record_bytes_ = 0;
  std::vector<int32_t> table_host_;
  DeviceBuffer<uint8_t> records_;
  DeviceBuffer<int32_t> table_;
  DeviceBuffer<__nv_bfloat16> source_, q_;
  DeviceBuffer<uint16_t> out_;
  tq_cuda_rotation rotation_{};
};

int Main(int argc, char** argv) {
  bool quick = false;
  const char* cudnn = nullptr;
  std::string path;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      quick = true;
    } else if (std::strcmp(argv[i], "--cudnn") == 0 && i + 1 < argc) {
      cudnn = argv[++i];
    } else {
      path = argv[i];
    }
  }
  tq_cuda_device device{};
  if (path.empty() || tq_cuda_query_device(&device) != TQ_CUDA_OK) {
    std::fprintf(stderr,
                 path.empty()
                     ? "usage: cuda_prefill_speed [--quick] [--cudnn FILE_OR_FOLDER] OUT.json\n"
                     : "no CUDA device of compute capability 8.0 or more\n");
    return path.empty() ? 2 : 3;
  }
  cudaDeviceProp properties;
  CheckCuda(cudaGetDeviceProperties(&properties, 0), "properties");
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) return 2;
  std::fprintf(file, "{\"device\":\"%s\",\"rows\":[", properties.name);
  std::vector<Shape> shapes;
  for (const int format : {4, 3}) {
    for (const int chunk : {512, 1024, 2048}) {
      if (quick && (chunk == 1024 || format == 3)) continue;
      shapes.push_back({format, 128, 8, 4, 32768, chunk, 0});
    }
  }
  shapes.push_back({4, 128, 8, 4, 32768, 2048, size_t{16} << 20});
  if (!quick) {
    shapes.push_back({4, 128, 8, 4, 131072, 2048, 0});
    shapes.push_back({4, 128, 8, 4, 131072, 2048, size_t{256} << 20});
    shapes.push_back({4, 128, 8, 4, 30000, 2000, 0});
    shapes.push_back({4, 64, 8, 4, 32768, 2048, 0});
    shapes.push_back({4, 256, 8, 4, 32768, 1024, 0});
    shapes.push_back({4, 128, 8, 8, 32768, 2048, 0});
  }
  tq_cuda_dense* dense = nullptr;
  char reason[200] = "";
  bool ok = true, first = true;
  if (cudnn != nullptr &&
      tq_cuda_dense_create(cudnn, &dense, reason, sizeof(reason)) != TQ_CUDA_OK) {
    std::printf("FAILED: %s\n", reason);
    ok = false;
  }
  for (const Shape& s : shapes) {
    PrefillBench bench(s, dense);
    const double decompress = bench.TimeDecompress();
    const double products =
        4.0 * s.chunk * s.kv_heads * s.group * s.head_dim * (s.prefix + (s.chunk + 1) / 2.0);
    for (const bool with : {false, true}) {
      if (with && (dense == nullptr || !bench.Served())) continue;
      const double error = bench.Check(with);
      int windows = 0;
      const double us = bench.Time(with, &windows);
      ok = ok && error <= 2e-3;
      std::printf(
          "turbo%d d%d %d/%d heads, %d tokens over %d in %d windows%s: %.0f us, %.0f TFLOP/s, "
          "error %.1e; decompress all %.0f us\n",
          s.format, s.head_dim, s.kv_heads * s.group, s.kv_heads, s.chunk, s.prefix, windows,
          with ? " by cuDNN" : "", us, products / us * 1e-6, error, decompress);
      std::fflush(stdout);
      std::fprintf(file,
                   "%s\n {\"kind\":\"prefill\",\"cudnn\":%d,\"format\":%d,\"head_dim\":%d,"
                   "\"kv_heads\":%d,\"group\":%d,\"prefix\":%d,\"chunk\":%d,\"windows\":%d,"
                   "\"us\":%.1f,\"tflops\":%.1f,\"error\":%.2e,\"decompress_us\":%.1f}",
                   first ? "" : ",", with ? 1 : 0, s.format, s.head_dim, s.kv_heads, s.group,
                   s.prefix, s.chunk, windows, us, products / us * 1e-6, error, decompress);
      first = false;
    }
  }
  tq_cuda_dense_destroy(dense);
  std::fprintf(file, "\n]}\n");
  std::fclose(file);
  std::printf("%s\n", ok ? "all shapes within 2e-3" : "FAILED: a shape is off by more than 2e-3");
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace turboquant::cuda

int main(int argc, char** argv) { return turboquant::cuda::Main(argc, argv); }
