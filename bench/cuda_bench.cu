// Speed of the CUDA kernels: decode attention over a table of shapes, encode, append, inner
// products, beside what the device reads and copies. Buffers rotate (512 MB and more a pass), times
// are medians of CUDA-graph replays, every timed shape is checked against the double reference
// first.
//
//   cuda_speed [--quick] [--only attention|encode|scores|sweep] [--name TEXT]... OUT.json
//
// --name: shapes of attention whose name contains one of the texts.
#include "bench/cuda_bench_lib.cuh"
#include "bench/cuda_sweep.cuh"

namespace turboquant::cuda {
namespace {

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
  const double error = cache.Check(cache.Run(plan, device_items.get(), workspace.get()));
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

// What stands before an append in a decode step: a kernel that writes the row.
__global__ void WriteRow(uint32_t* to, uint32_t value) { to[threadIdx.x] = value; }

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
  const auto encode = [&](cudaStream_t stream, int k) {
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
  };
  const double us = MedianTime(launches, encode);
  const double count = 2.0 * 8 * batch * tokens;
  const int bits = format >= TQ_CUDA_TURBO2T ? format - 16 : format;
  const double bytes = count * (256 + bits * 16 + 2);
  // One token: its launch overlaps the end of the kernel before, so also the price behind one.
  double behind = us;
  if (tokens == 1) {
    DeviceBuffer<uint32_t> row(32);
    const auto write = [&](cudaStream_t stream, int k) {
      WriteRow<<<1, 32, 0, stream>>>(row.get(), static_cast<uint32_t>(k));
    };
    const double alone = MedianTime(launches, write);
    behind = MedianTime(launches,
                        [&](cudaStream_t stream, int k) {
                          write(stream, k);
                          encode(stream, k);
                        }) -
             alone;
  }
  char line[400];
  std::snprintf(line, sizeof(line),
                "{\"kind\":\"encode\",\"format\":%d,\"batch\":%d,\"tokens\":%d,\"us\":%.3f,"
                "\"us_behind_a_kernel\":%.3f,\"rows_per_s\":%.3e,\"gbps\":%.1f,"
                "\"fraction_of_copy\":%.4f}",
                format, batch, tokens, us, behind, count / us * 1e6, bytes / us * 1e-3,
                bytes / us * 1e-3 / roofline.copy);
  report->Add(line);
  std::printf(
      "encode turbo%d%s B%d x %d tokens: %.2f us (%.2f behind a kernel), %.2e rows/s, %.1f %% of "
      "copy\n",
      bits, bits != format ? "t" : "", batch, tokens, us, behind, count / us * 1e6,
      100 * bytes / us * 1e-3 / roofline.copy);
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
  for (const int format : {4, 3}) {
    shapes.push_back({"GQA8 q_len 2 B8 32K", format, format, 128, 8, 8, 2, even(8, 32768)});
    shapes.push_back({"GQA4 q_len 2 B8 32K", format, format, 128, 8, 4, 2, even(8, 32768)});
    shapes.push_back({"q_len 4 B1 32K", format, format, 128, 8, 4, 4, even(1, 32768)});
    shapes.push_back({"d64 q_len 4 B8 32K", format, format, 64, 8, 4, 4, even(8, 32768)});
    shapes.push_back({"d256 GQA8 B8 32K", format, format, 256, 8, 8, 1, even(8, 32768)});
    for (const int d : {80, 96, 192}) {
      shapes.push_back(
          {"d" + std::to_string(d) + " B8 32K", format, format, d, 8, 4, 1, even(8, 32768)});
    }
    shapes.push_back({"GQA8 B1 32K", format, format, 128, 8, 8, 1, even(1, 32768)});
    shapes.push_back({"d96 B1 32K", format, format, 96, 8, 4, 1, even(1, 32768)});
    shapes.push_back({"d96 MHA B8 8K", format, format, 96, 32, 1, 1, even(8, 8192)});
  }
  for (const auto& [k, v] :
       {std::pair(20, 20), std::pair(20, 19), std::pair(19, 19), std::pair(18, 18)}) {
    shapes.push_back({"trellis B8 32K", k, v, 128, 8, 4, 1, even(8, 32768)});
    shapes.push_back({"trellis d64 B8 32K", k, v, 64, 8, 4, 1, even(8, 32768)});
  }
  for (const int d : {80, 96, 192, 256}) {
    shapes.push_back(
        {"trellis d" + std::to_string(d) + " B8 32K", 20, 19, d, 8, 4, 1, even(8, 32768)});
  }
  for (const int batch : {1, 8}) {
    for (const int v : {8, 4, 3}) {
      shapes.push_back(
          {"turbo8 keys " + name(batch, 32768), 8, v, 128, 8, 4, 1, even(batch, 32768)});
    }
  }
  shapes.push_back({"turbo8 keys pair path B8 32K", 8, 8, 128, 8, 4, 1, even(8, 32768), 0, 0,
                    TQ_CUDA_PATH_PAIR});
  shapes.push_back({"turbo8 keys GQA8 B8 32K", 8, 8, 128, 8, 8, 1, even(8, 32768)});
  for (const int d : {64, 80, 96, 192, 256}) {
    shapes.push_back(
        {"turbo8 keys d" + std::to_string(d) + " B8 32K", 8, 8, d, 8, 4, 1, even(8, 32768)});
  }
  for (const auto& [k, v] : {std::pair(3, 4), std::pair(4, 2), std::pair(3, 2)}) {
    shapes.push_back({"mixed B8 32K", k, v, 128, 8, 4, 1, even(8, 32768)});
  }
  return shapes;
}

int Main(int argc, char** argv) {
  bool quick = false;
  std::string only, path;
  std::vector<std::string> names;
  const auto wanted = [&names](const Shape& s) {
    return names.empty() || std::any_of(names.begin(), names.end(), [&s](const std::string& n) {
             return s.name.find(n) != std::string::npos;
           });
  };
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      quick = true;
    } else if (std::strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
      only = argv[++i];
    } else if (std::strcmp(argv[i], "--name") == 0 && i + 1 < argc) {
      names.push_back(argv[++i]);
    } else {
      path = argv[i];
    }
  }
  if (path.empty()) {
    std::fprintf(stderr,
                 "usage: cuda_speed [--quick] [--only attention|encode|scores|sweep] "
                 "[--name TEXT]... OUT.json\n");
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
    for (const int format : {TQ_CUDA_TURBO4T, TQ_CUDA_TURBO3T, TQ_CUDA_TURBO2T}) {
      TimeEncode(format, 1, 8192, &report, roofline);
    }
    for (const int batch : {1, 32}) TimeEncode(3, batch, 1, &report, roofline);
    TimeEncode(TQ_CUDA_TURBO3T, 1, 1, &report, roofline);
  }
  if (only.empty() || only == "scores") {
    for (const int format : {4, 3, 2}) TimeScores(format, 1, &report);
    TimeScores(3, 4, &report);
  }
  if (only.empty() || only == "attention") {
    for (const Shape& s : Shapes(quick)) {
      if (wanted(s)) ok = TimeAttention(s, device, roofline, &report) && ok;
    }
  }
  if (only == "sweep") {
    for (const Shape& s : Shapes(false)) {
      const bool plain = s.name[0] == 'B' && s.format_k == s.format_v;
      if ((names.empty() ? !plain : !wanted(s)) || (quick && s.format_k == 2)) continue;
      ok = SweepShape(s, device, roofline, &report) && ok;
    }
  }
  std::printf("%s\n", ok ? "all shapes within 1e-3" : "FAILED: a shape is off by more than 1e-3");
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace turboquant::cuda

int main(int argc, char** argv) { return turboquant::cuda::Main(argc, argv); }
