// What the CUDA benchmarks share: rotating caches, medians of graph replays, what the device reads
// and copies, checks against the double reference.
#ifndef TURBOQUANT_BENCH_CUDA_BENCH_LIB_CUH_
#define TURBOQUANT_BENCH_CUDA_BENCH_LIB_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>

#include "kernels/cuda/attention_reference.h"
#include "tests/cuda/cuda_case.h"
#include "tests/cuda/device_buffer.h"

namespace turboquant::cuda {
namespace {

constexpr size_t kRotateBytes = size_t{512} << 20;
constexpr int kSourceTokens = 16384;

__device__ uint32_t Hash(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

__global__ void FillNormal(__nv_bfloat16* out, size_t n, uint32_t seed, float size) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < n;
       i += size_t{gridDim.x} * blockDim.x) {
    const uint32_t a = Hash(static_cast<uint32_t>(i) ^ Hash(seed)), b = Hash(a + 0x9e3779b9u);
    const float u = static_cast<float>(a >> 8) * 0x1p-24f + 0x1p-26f;
    const float v = static_cast<float>(b >> 8) * 0x1p-24f;
    out[i] = __float2bfloat16(size * sqrtf(-2.0f * logf(u)) * cospif(2.0f * v));
  }
}

// Records of random codes: scales of keys and values between 0.5 and 1.5.
__global__ void FillCodes(uint32_t* records, size_t words, int record_words, int code_words) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < words;
       i += size_t{gridDim.x} * blockDim.x) {
    const uint32_t x = Hash(static_cast<uint32_t>(i) ^ 0x51ed270bu);
    const __half2 scales = __floats2half2_rn(0.5f + static_cast<float>(x & 0xFFFFu) * 0x1p-16f,
                                             0.5f + static_cast<float>(x >> 16) * 0x1p-16f);
    records[i] = static_cast<int>(i % record_words) < code_words
                     ? x
                     : reinterpret_cast<const uint32_t&>(scales);
  }
}

__global__ void __launch_bounds__(512) ReadAll(const uint4* in, size_t n, uint32_t* sink) {
  uint32_t sum = 0;
  const size_t step = size_t{gridDim.x} * blockDim.x * 8;
  for (size_t i = blockIdx.x * size_t{blockDim.x} * 8 + threadIdx.x; i + 7 * blockDim.x < n;
       i += step) {
    uint4 v[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) v[k] = __ldcs(in + i + k * blockDim.x);
#pragma unroll
    for (int k = 0; k < 8; ++k) sum ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  if (sum == 0x12345678u) *sink = sum;
}

__global__ void __launch_bounds__(512) CopyAll(const uint4* in, uint4* out, size_t n) {
  const size_t step = size_t{gridDim.x} * blockDim.x * 4;
  for (size_t i = blockIdx.x * size_t{blockDim.x} * 4 + threadIdx.x; i + 3 * blockDim.x < n;
       i += step) {
    uint4 v[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = __ldcs(in + i + k * blockDim.x);
#pragma unroll
    for (int k = 0; k < 4; ++k) __stcs(out + i + k * blockDim.x, v[k]);
  }
}

// Median time in us of one of `launches` kernels that `record` puts on the stream.
double MedianTime(int launches, const std::function<void(cudaStream_t, int)>& record,
                  int replays = 9) {
  cudaStream_t stream;
  CheckCuda(cudaStreamCreate(&stream), "stream");
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CheckCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < launches; ++i) record(stream, i);
  CheckCuda(cudaStreamEndCapture(stream, &graph), "capture end");
  CheckCuda(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<double> times;
  for (int i = 0; i < replays + 2; ++i) {
    cudaEventRecord(begin, stream);
    CheckCuda(cudaGraphLaunch(exec, stream), "replay");
    cudaEventRecord(end, stream);
    CheckCuda(cudaStreamSynchronize(stream), "replay");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i > 1) times.push_back(ms * 1000.0 / launches);
  }
  std::sort(times.begin(), times.end());
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  return times[times.size() / 2];
}

struct Shape {
  std::string name;
  int format_k, format_v;
  int head_dim, kv_heads, group, q_len;
  std::vector<int> lens;
  int exact = 0;  // rows of each sequence
  int window = 0;
  int path = TQ_CUDA_PATH_AUTO;
};

// The cache of a shape: `sets` copies of it, all coded from the same source rows at other places.
class BenchCache {
 public:
  BenchCache(const Shape& s, size_t rotate_bytes) : shape_(s) {
    batch_ = static_cast<int>(s.lens.size());
    for (const int n : s.lens) max_len_ = std::max(max_len_, n);
    pages_ = (max_len_ + kTileTokens - 1) / kTileTokens;
    int used = 0;
    for (const int n : s.lens) used += (n + kTileTokens - 1) / kTileTokens;
    record_bytes_ = tq_cuda_record_bytes(s.format_k, s.format_v, s.head_dim);
    set_bytes_ = static_cast<size_t>(used) * s.kv_heads * record_bytes_;
    sets_ = static_cast<int>(std::max<size_t>(1, (rotate_bytes + set_bytes_ - 1) / set_bytes_));
    records_ = DeviceBuffer<uint8_t>(set_bytes_ * static_cast<size_t>(sets_));
    std::vector<int32_t> order(static_cast<size_t>(used));
    std::mt19937 random(7);
    tables_host_.assign(static_cast<size_t>(sets_) * batch_ * pages_, 0);
    for (int set = 0; set < sets_; ++set) {
      for (int i = 0; i < used; ++i) order[static_cast<size_t>(i)] = set * used + i;
      std::shuffle(order.begin(), order.end(), random);
      size_t next = 0;
      for (int b = 0; b < batch_; ++b) {
        const int n = (s.lens[static_cast<size_t>(b)] + kTileTokens - 1) / kTileTokens;
        for (int page = 0; page < n; ++page) {
          tables_host_[(static_cast<size_t>(set) * batch_ + b) * pages_ + page] = order[next++];
        }
      }
    }
    tables_ = DeviceBuffer<int32_t>(tables_host_);
    const size_t width = static_cast<size_t>(s.kv_heads) * s.head_dim;
    source_ = DeviceBuffer<__nv_bfloat16>(2 * kSourceTokens * width);
    FillNormal<<<1024, 256>>>(source_.get(), source_.size(), 1, 1.0f);
    queries_ = DeviceBuffer<__nv_bfloat16>(static_cast<size_t>(batch_) * s.q_len * width * s.group);
    FillNormal<<<256, 256>>>(queries_.get(), queries_.size(), 2, 1.5f);
    out_ = DeviceBuffer<float>(queries_.size());
    CheckCuda(tq_cuda_make_rotation(s.head_dim, 1, &rotation_, mix_) == TQ_CUDA_OK
                  ? cudaSuccess
                  : cudaErrorInvalidValue,
              "rotation");
    device_mix_ = DeviceBuffer<float>(std::vector<float>(mix_, mix_ + 64));
    if (rotation_.m > 1) rotation_.mix = device_mix_.get();
    lens_ = DeviceBuffer<int32_t>(std::vector<int32_t>(s.lens.begin(), s.lens.end()));
    for (const int n : s.lens) total_host_.push_back(n + s.exact);
    total_ = DeviceBuffer<int32_t>(total_host_);
    exact_host_.assign(static_cast<size_t>(batch_), s.exact);
    exact_ = DeviceBuffer<int32_t>(exact_host_);
    CheckCuda(cudaDeviceSynchronize(), "setup");
    Encode();
  }

  tq_cuda_cache Cache(int set) const {
    tq_cuda_cache c{};
    c.k_format = shape_.format_k;
    c.v_format = shape_.format_v;
    c.head_dim = shape_.head_dim;
    c.num_kv_heads = shape_.kv_heads;
    c.records = records_.get();
    c.page_table = tables_.get() + static_cast<size_t>(set) * batch_ * pages_;
    c.page_stride = pages_;
    c.k_rotation = c.v_rotation = rotation_;
    return c;
  }

  tq_cuda_rows Source(int first) const {
    const int64_t width = int64_t{shape_.kv_heads} * shape_.head_dim;
    tq_cuda_rows r{};
    r.k = source_.get() + first * width;
    r.v = source_.get() + (kSourceTokens + first) * width;
    r.dtype = TQ_CUDA_BF16;
    r.head_stride = shape_.head_dim;
    r.token_stride = width;
    r.sequence_stride = 0;
    return r;
  }

  // Codes every set; chunks of a quarter of the source, each set from another place.
  void Encode() {
    if (shape_.format_k >= TQ_CUDA_TURBO2T || shape_.format_v >= TQ_CUDA_TURBO2T) {
      // The speed of reading trellis codes does not depend on what they say.
      FillCodes<<<1024, 256>>>(reinterpret_cast<uint32_t*>(records_.get()), records_.size() / 4,
                               static_cast<int>(record_bytes_ / 4),
                               static_cast<int>(record_bytes_ / 4) - kTileTokens);
      CheckCuda(cudaDeviceSynchronize(), "codes");
      return;
    }
    constexpr int kChunk = kSourceTokens / 4;
    std::vector<int32_t> first(static_cast<size_t>(batch_)), rows(static_cast<size_t>(batch_));
    DeviceBuffer<int32_t> first_device(first.size()), rows_device(rows.size());
    for (int begin = 0; begin < max_len_; begin += kChunk) {
      for (size_t b = 0; b < first.size(); ++b) {
        first[b] = std::min(begin, shape_.lens[b]);
        rows[b] = std::clamp(shape_.lens[b] - begin, 0, kChunk);
      }
      first_device.Upload(first);
      rows_device.Upload(rows);
      for (int set = 0; set < sets_; ++set) {
        tq_cuda_encode_params p{};
        p.cache = Cache(set);
        p.batch = batch_;
        p.rows = Source((set * 977 + begin / 64 * 131) % (kSourceTokens - kChunk) / 8 * 8);
        p.first_token = first_device.get();
        p.num_rows = rows_device.get();
        p.max_rows = kChunk;
        CheckCuda(tq_cuda_encode(&p, nullptr) == TQ_CUDA_OK ? cudaSuccess : cudaErrorUnknown,
                  "encode");
      }
      CheckCuda(cudaDeviceSynchronize(), "encode");
    }
  }

  tq_cuda_attention Attention(int set) const {
    const Shape& s = shape_;
    const int64_t d = s.head_dim, heads = int64_t{s.kv_heads} * s.group;
    tq_cuda_attention p{};
    p.cache = Cache(set);
    p.batch = batch_;
    p.group = s.group;
    p.q_len = s.q_len;
    p.q = queries_.get();
    p.q_dtype = TQ_CUDA_BF16;
    p.q_head_stride = p.out_head_stride = d;
    p.q_token_stride = p.out_token_stride = heads * d;
    p.q_sequence_stride = p.out_sequence_stride = s.q_len * heads * d;
    p.out = out_.get();
    p.out_dtype = TQ_CUDA_BF16;
    p.coded_len = lens_.get();
    p.total_len = total_.get();
    p.scale = 1.0f / std::sqrt(static_cast<float>(d));
    p.window = s.window;
    if (s.exact > 0) {
      p.exact = Source(0);
      p.exact.sequence_stride = 128 * p.exact.token_stride;
      p.exact_len = exact_.get();
    }
    return p;
  }

  tq_cuda_plan_request Request(const tq_cuda_device& device) const {
    tq_cuda_plan_request r{};
    r.k_format = shape_.format_k;
    r.v_format = shape_.format_v;
    r.head_dim = shape_.head_dim;
    r.num_kv_heads = shape_.kv_heads;
    r.batch = batch_;
    r.group = shape_.group;
    r.q_len = shape_.q_len;
    r.coded_len = shape_.lens.data();
    r.total_len = total_host_.data();
    r.exact_len = shape_.exact > 0 ? exact_host_.data() : nullptr;
    r.window = shape_.window;
    r.path = shape_.path;
    r.num_sms = device.num_sms;
    r.smem_per_block = device.smem_per_block;
    r.smem_per_sm = device.smem_per_sm;
    r.bytes_per_clock = device.bytes_per_clock;
    return r;
  }

  // The output of set 0, f32; empty: refused.
  std::vector<float> Run(const tq_cuda_plan& plan, const tq_cuda_item* items, void* workspace) {
    out_.Fill(0xFF);
    tq_cuda_attention p = Attention(0);
    p.out_dtype = TQ_CUDA_F32;
    if (tq_cuda_attend(&plan, &p, items, workspace, nullptr) != TQ_CUDA_OK) return {};
    CheckCuda(cudaDeviceSynchronize(), shape_.name.c_str());
    return out_.Download();
  }

  // Worst relative error of one sequence and kv head of set 0.
  double Check(const std::vector<float>& got) {
    const Shape& s = shape_;
    if (got.empty()) return 1e30;
    const tq_cuda_attention p = Attention(0);
    const int b = batch_ - 1, head = s.kv_heads / 2, d = s.head_dim;
    if (want_.empty()) want_ = Reference(p, b, head);
    double worst = 0;
    for (int row = 0; row < s.q_len * s.group; ++row) {
      const size_t at =
          static_cast<size_t>(b * p.out_sequence_stride + row / s.group * p.out_token_stride +
                              (head * s.group + row % s.group) * d);
      double error = 0, norm = 0;
      for (int i = 0; i < d; ++i) {
        const double w = want_[static_cast<size_t>(row) * d + i];
        error += (got[at + i] - w) * (got[at + i] - w);
        norm += w * w;
      }
      const double e = std::sqrt(error / norm);
      worst = e >= worst ? e : std::isnan(e) ? 1e30 : worst;
    }
    return worst;
  }

  int sets() const { return sets_; }
  int batch() const { return batch_; }
  int64_t tokens() const {
    int64_t n = 0;
    for (const int len : shape_.lens) n += len;
    return n;
  }

 private:
  std::vector<double> Reference(const tq_cuda_attention& p, int b, int head) {
    const Shape& s = shape_;
    const int d = s.head_dim;
    const int len = s.lens[static_cast<size_t>(b)], pages = (len + kTileTokens - 1) / kTileTokens;
    std::vector<uint8_t> records(static_cast<size_t>(pages) * record_bytes_);
    std::vector<int32_t> table(static_cast<size_t>(pages));
    for (int i = 0; i < pages; ++i) {
      const size_t physical =
          static_cast<size_t>(tables_host_[static_cast<size_t>(b) * pages_ + i]);
      CheckCuda(cudaMemcpy(records.data() + static_cast<size_t>(i) * record_bytes_,
                           records_.get() + (physical * s.kv_heads + head) * record_bytes_,
                           record_bytes_, cudaMemcpyDeviceToHost),
                "page");
      table[static_cast<size_t>(i)] = i;
    }
    const std::vector<__nv_bfloat16> queries = queries_.Download(), source = source_.Download();
    tq_cuda_attention host = p;
    const int64_t width = int64_t{s.kv_heads} * d;
    host.batch = 1;
    host.cache.num_kv_heads = 1;
    host.cache.records = records.data();
    host.cache.page_table = table.data();
    host.cache.page_stride = pages;
    host.cache.k_rotation.mix = host.cache.v_rotation.mix = rotation_.m > 1 ? mix_ : nullptr;
    host.q = queries.data() + b * p.q_sequence_stride + int64_t{head} * s.group * d;
    host.coded_len = &len;
    host.total_len = &total_host_[static_cast<size_t>(b)];
    host.exact_len = s.exact > 0 ? &exact_host_[0] : nullptr;
    const int64_t exact_at = b * p.exact.sequence_stride + head * d;
    host.exact.k = source.data() + exact_at;
    host.exact.v = source.data() + kSourceTokens * width + exact_at;
    return AttendReference(host).out;
  }

  Shape shape_;
  int batch_ = 0, max_len_ = 0, pages_ = 0, sets_ = 0;
  size_t record_bytes_ = 0, set_bytes_ = 0;
  DeviceBuffer<uint8_t> records_;
  DeviceBuffer<int32_t> tables_, lens_, total_, exact_;
  DeviceBuffer<__nv_bfloat16> source_, queries_;
  DeviceBuffer<float> out_, device_mix_;
  std::vector<int32_t> tables_host_, total_host_, exact_host_;
  std::vector<double> want_;
  tq_cuda_rotation rotation_{};
  float mix_[64] = {};
};

class Report {
 public:
  explicit Report(const char* path) : file_(std::fopen(path, "w")) {
    if (file_ == nullptr) {
      std::perror(path);
      std::exit(1);
    }
  }
  ~Report() {
    std::fputs("\n]\n", file_);
    std::fclose(file_);
  }
  void Add(const std::string& row) {
    std::fprintf(file_, "%s%s", first_ ? "[\n" : ",\n", row.c_str());
    first_ = false;
  }

 private:
  FILE* file_;
  bool first_ = true;
};

struct Roofline {
  double read, copy;  // GB/s
};

Roofline MeasureRoofline(Report* report) {
  constexpr size_t kBytes = size_t{4} << 30;
  DeviceBuffer<uint8_t> a(kBytes), b(kBytes);
  a.Fill(1);
  DeviceBuffer<uint32_t> sink(1);
  const double read = MedianTime(3, [&](cudaStream_t stream, int) {
    ReadAll<<<132 * 8, 512, 0, stream>>>(reinterpret_cast<const uint4*>(a.get()), kBytes / 16,
                                         sink.get());
  });
  const double copy = MedianTime(3, [&](cudaStream_t stream, int) {
    CopyAll<<<132 * 8, 512, 0, stream>>>(reinterpret_cast<const uint4*>(a.get()),
                                         reinterpret_cast<uint4*>(b.get()), kBytes / 16);
  });
  const Roofline r{kBytes / read * 1e-3, 2 * kBytes / copy * 1e-3};
  char line[200];
  std::snprintf(line, sizeof(line), "{\"kind\":\"roofline\",\"read_gbps\":%.1f,\"copy_gbps\":%.1f}",
                r.read, r.copy);
  report->Add(line);
  std::printf("read %.0f GB/s, copy %.0f GB/s (read + write)\n", r.read, r.copy);
  return r;
}

}  // namespace
}  // namespace turboquant::cuda

#endif  // TURBOQUANT_BENCH_CUDA_BENCH_LIB_CUH_
