// Speed of the CUDA kernels: decode attention over a table of shapes, encode, append, inner
// products, beside what the device reads and copies. Buffers rotate (512 MB and more a pass), times
// are medians of CUDA-graph replays, every timed shape is checked against the double reference
// first.
//
//   cuda_bench [--quick] [--only attention|encode|scores] OUT.json
#include <cuda_bf16.h>

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
double MedianTime(int launches, const std::function<void(cudaStream_t, int)>& record) {
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
  for (int i = 0; i < 11; ++i) {
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
    return r;
  }

  // Worst relative error of one sequence and kv head of set 0 (output f32).
  double Check(const tq_cuda_plan& plan, const tq_cuda_item* items, void* workspace) {
    const Shape& s = shape_;
    out_.Fill(0xFF);
    tq_cuda_attention p = Attention(0);
    p.out_dtype = TQ_CUDA_F32;
    if (tq_cuda_attend(&plan, &p, items, workspace, nullptr) != TQ_CUDA_OK) return 1e30;
    CheckCuda(cudaDeviceSynchronize(), s.name.c_str());
    const int b = batch_ - 1, head = s.kv_heads / 2, d = s.head_dim;
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
    const ReferenceOutput want = AttendReference(host);
    const std::vector<float> got = out_.Download();
    double worst = 0;
    for (int row = 0; row < s.q_len * s.group; ++row) {
      const size_t at =
          static_cast<size_t>(b * p.out_sequence_stride + row / s.group * p.out_token_stride +
                              (head * s.group + row % s.group) * d);
      double error = 0, norm = 0;
      for (int i = 0; i < d; ++i) {
        const double w = want.out[static_cast<size_t>(row) * d + i];
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
  Shape shape_;
  int batch_ = 0, max_len_ = 0, pages_ = 0, sets_ = 0;
  size_t record_bytes_ = 0, set_bytes_ = 0;
  DeviceBuffer<uint8_t> records_;
  DeviceBuffer<int32_t> tables_, lens_, total_, exact_;
  DeviceBuffer<__nv_bfloat16> source_, queries_;
  DeviceBuffer<float> out_, device_mix_;
  std::vector<int32_t> tables_host_, total_host_, exact_host_;
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

bool TimeAttention(const Shape& s, const tq_cuda_device& device, const Roofline& roofline,
                   Report* report) {
  BenchCache cache(s, kRotateBytes);
  const tq_cuda_plan_request request = cache.Request(device);
  tq_cuda_plan plan{};
  int32_t n = 0;
  if (tq_cuda_plan_attention(&request, &plan, nullptr, &n) != TQ_CUDA_OK) return false;
  std::vector<tq_cuda_item> items(static_cast<size_t>(n));
  tq_cuda_plan_attention(&request, &plan, items.data(), &n);
  const DeviceBuffer<tq_cuda_item> device_items(items);
  DeviceBuffer<uint8_t> workspace(plan.workspace_bytes);
  workspace.Fill(0);
  const double error = cache.Check(plan, device_items.get(), workspace.get());
  double pages_read = 0;
  for (const tq_cuda_item& item : items) {
    if (item.exact == 0) pages_read += item.end - item.begin;
  }
  const double bytes =
      pages_read / plan.row_tiles *
      static_cast<double>(tq_cuda_record_bytes(s.format_k, s.format_v, s.head_dim));
  const int least = bytes < 2e8 ? 64 : bytes < 2e9 ? 8 : 2;
  const int launches =
      std::max(cache.sets(), (least + cache.sets() - 1) / cache.sets() * cache.sets());
  std::vector<double> runs;
  for (int i = 0; i < 3; ++i) {
    runs.push_back(MedianTime(launches, [&](cudaStream_t stream, int k) {
      const tq_cuda_attention p = cache.Attention(k % cache.sets());
      tq_cuda_attend(&plan, &p, device_items.get(), workspace.get(), stream);
    }));
  }
  std::sort(runs.begin(), runs.end());
  const double us = runs[1];
  const double gbps = bytes / us * 1e-3;
  char line[600];
  std::snprintf(line, sizeof(line),
                "{\"kind\":\"attention\",\"name\":\"%s\",\"k\":%d,\"v\":%d,\"head_dim\":%d,"
                "\"kv_heads\":%d,\"group\":%d,\"q_len\":%d,\"batch\":%d,\"tokens\":%lld,"
                "\"exact\":%d,\"window\":%d,\"path\":\"%s\",\"config\":%d,\"items\":%d,"
                "\"us\":%.3f,\"us_min\":%.3f,\"us_max\":%.3f,\"bytes\":%.0f,\"gbps\":%.1f,"
                "\"fraction\":%.4f,\"error\":%.2e}",
                s.name.c_str(), s.format_k, s.format_v, s.head_dim, s.kv_heads, s.group, s.q_len,
                cache.batch(), static_cast<long long>(cache.tokens()), s.exact, s.window,
                plan.path == TQ_CUDA_PATH_INT8 ? "int8" : "pair", plan.config, plan.num_items, us,
                runs[0], runs[2], bytes, gbps, gbps / roofline.read, error);
  report->Add(line);
  std::printf(
      "%-28s k%d v%d %s items %4d cfg %d: %9.2f us (%.2f-%.2f) %7.1f GB/s %5.1f %% err %.1e\n",
      s.name.c_str(), s.format_k, s.format_v, plan.path == TQ_CUDA_PATH_INT8 ? "int8" : "pair",
      plan.num_items, plan.config, us, runs[0], runs[2], gbps, 100 * gbps / roofline.read, error);
  std::fflush(stdout);
  return error <= 1e-3;
}

void TimeEncode(int format, int batch, int tokens, Report* report, const Roofline& roofline) {
  Shape s{"encode", format, format, 128,
          8,        4,      1,      std::vector<int>(static_cast<size_t>(batch), 8192)};
  BenchCache cache(s, size_t{256} << 20);
  const DeviceBuffer<int32_t> first(
      std::vector<int32_t>(static_cast<size_t>(batch), tokens == 1 ? 8100 : 0));
  const DeviceBuffer<int32_t> rows(std::vector<int32_t>(static_cast<size_t>(batch), tokens));
  // Sources rotate too: 8 places, and L2 holds two of them at most.
  DeviceBuffer<__nv_bfloat16> source(size_t{16} * 8192 * 1024);
  FillNormal<<<1024, 256>>>(source.get(), source.size(), 9, 1.0f);
  const int launches = std::max(16, cache.sets());
  const double us = MedianTime(launches, [&](cudaStream_t stream, int k) {
    tq_cuda_encode_params p{};
    p.cache = cache.Cache(k % cache.sets());
    p.batch = batch;
    p.rows = cache.Source(0);
    p.rows.k = source.get() + size_t(k % 8) * 8192 * 1024;
    p.rows.v = source.get() + size_t(8 + k % 8) * 8192 * 1024;
    p.first_token = first.get();
    p.num_rows = rows.get();
    p.max_rows = tokens;
    tq_cuda_encode(&p, stream);
  });
  const double count = 2.0 * 8 * batch * tokens;
  const double bytes = count * (256 + format * 16 + 2);
  char line[300];
  std::snprintf(line, sizeof(line),
                "{\"kind\":\"encode\",\"format\":%d,\"batch\":%d,\"tokens\":%d,\"us\":%.3f,"
                "\"rows_per_s\":%.3e,\"gbps\":%.1f,\"fraction_of_copy\":%.4f}",
                format, batch, tokens, us, count / us * 1e6, bytes / us * 1e-3,
                bytes / us * 1e-3 / roofline.copy);
  report->Add(line);
  std::printf("encode turbo%d B%d x %d tokens: %.2f us, %.2e rows/s, %.1f %% of copy\n", format,
              batch, tokens, us, count / us * 1e6, 100 * bytes / us * 1e-3 / roofline.copy);
}

void TimeScores(int format, int rows, Report* report) {
  constexpr int kTokens = 4 << 20;
  Shape s{"scores", format, 2, 128, 1, 4, 1, {kTokens}};
  if (format == 2) s.format_v = 2;
  BenchCache cache(s, 1);
  DeviceBuffer<float> q(static_cast<size_t>(rows) * 128), out(static_cast<size_t>(rows) * kTokens);
  q.Upload(std::vector<float>(static_cast<size_t>(rows) * 128, 0.5f));
  const double us = MedianTime(4, [&](cudaStream_t stream, int) {
    tq_cuda_scores_params p{};
    p.cache = cache.Cache(0);
    p.num_tokens = kTokens;
    p.rows = rows;
    p.q = q.get();
    p.out = out.get();
    tq_cuda_scores(&p, stream);
  });
  char line[200];
  std::snprintf(
      line, sizeof(line),
      "{\"kind\":\"scores\",\"format\":%d,\"queries\":%d,\"us\":%.3f,\"rows_per_s\":%.3e}", format,
      rows, us, kTokens / us * 1e6);
  report->Add(line);
  std::printf("scores turbo%d, %d queries: %.2e rows/s\n", format, rows, kTokens / us * 1e6);
}

std::vector<Shape> Shapes(bool quick) {
  std::vector<Shape> shapes;
  const auto even = [](int batch, int len) {
    return std::vector<int>(static_cast<size_t>(batch), len);
  };
  const auto name = [](int batch, int len) {
    return "B" + std::to_string(batch) + " " + std::to_string(len / 1024) + "K";
  };
  for (const int format : {4, 3, 2}) {
    for (const int batch : {1, 8, 32}) {
      for (const int len : {8192, 32768, 131072}) {
        if (quick && (len == 131072 || format == 2) && batch > 1) continue;
        shapes.push_back({name(batch, len), format, format, 128, 8, 4, 1, even(batch, len)});
      }
    }
  }
  for (const int batch : {1, 8}) {
    shapes.push_back({name(batch, 32768), 4, 3, 128, 8, 4, 1, even(batch, 32768)});
  }
  const std::vector<int> ragged = {131072, 65536, 40000, 20000, 9000, 4096, 3000, 2000,
                                   1000,   700,   500,   300,   200,  100,  64,   1};
  for (const int format : {4, 3}) {
    for (const int d : {64, 256}) {
      shapes.push_back(
          {"d" + std::to_string(d) + " B8 32K", format, format, d, 8, 4, 1, even(8, 32768)});
    }
    shapes.push_back({"GQA8 B8 32K", format, format, 128, 8, 8, 1, even(8, 32768)});
    shapes.push_back({"MHA B8 8K", format, format, 128, 32, 1, 1, even(8, 8192)});
    shapes.push_back({"q_len 4 B8 32K", format, format, 128, 8, 4, 4, even(8, 32768)});
    shapes.push_back({"ragged 16 sequences", format, format, 128, 8, 4, 1, ragged});
    shapes.push_back({"window 4096 B8 32K", format, format, 128, 8, 4, 1, even(8, 32768), 0, 4096});
    shapes.push_back({"tail 132 B1 32K", format, format, 128, 8, 4, 1, even(1, 32768), 132});
    shapes.push_back({"tail 132 B8 32K", format, format, 128, 8, 4, 1, even(8, 32768), 132});
    shapes.push_back({"pair path B8 32K", format, format, 128, 8, 4, 1, even(8, 32768), 0, 0,
                      TQ_CUDA_PATH_PAIR});
  }
  shapes.push_back({"d80 B8 8K", 4, 4, 80, 8, 4, 1, even(8, 8192)});
  return shapes;
}

int Main(int argc, char** argv) {
  bool quick = false;
  std::string only, path;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      quick = true;
    } else if (std::strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
      only = argv[++i];
    } else {
      path = argv[i];
    }
  }
  if (path.empty()) {
    std::fprintf(stderr, "usage: cuda_bench [--quick] [--only attention|encode|scores] OUT.json\n");
    return 2;
  }
  tq_cuda_device device{};
  if (tq_cuda_query_device(&device) != TQ_CUDA_OK) {
    std::fprintf(stderr, "no CUDA device of compute capability 8.0 or more\n");
    return 3;
  }
  Report report(path.c_str());
  const Roofline roofline = MeasureRoofline(&report);
  bool ok = true;
  if (only.empty() || only == "encode") {
    for (const int format : {4, 3, 2}) TimeEncode(format, 1, 8192, &report, roofline);
    for (const int batch : {1, 32}) TimeEncode(3, batch, 1, &report, roofline);
  }
  if (only.empty() || only == "scores") {
    for (const int format : {4, 3, 2}) TimeScores(format, 1, &report);
    TimeScores(3, 4, &report);
  }
  if (only.empty() || only == "attention") {
    for (const Shape& s : Shapes(quick)) ok = TimeAttention(s, device, roofline, &report) && ok;
  }
  std::printf("%s\n", ok ? "all shapes within 1e-3" : "FAILED: a shape is off by more than 1e-3");
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace turboquant::cuda

int main(int argc, char** argv) { return turboquant::cuda::Main(argc, argv); }
