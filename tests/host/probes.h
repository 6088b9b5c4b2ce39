// Probes: named logit vectors that a run of the host leaves in a file, and their comparison.
#ifndef TURBOQUANT_TESTS_HOST_PROBES_H_
#define TURBOQUANT_TESTS_HOST_PROBES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace turboquant::host_test {

using Logits = std::vector<float>;

struct Difference {
  bool identical;  // bit for bit
  double max_abs;
  double kl;  // of softmax(b) from softmax(a)
  bool finite;
};

inline Difference Compare(const Logits& a, const Logits& b) {
  Difference d{false, 0, 0, true};
  if (a.size() != b.size() || a.empty()) return {false, INFINITY, INFINITY, false};
  d.identical = std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  auto log_sum = [](const Logits& x) {
    const double top = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (float v : x) sum += std::exp(v - top);
    return top + std::log(sum);
  };
  const double za = log_sum(a), zb = log_sum(b);
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) d.finite = false;
    d.max_abs = std::max(d.max_abs, std::fabs(static_cast<double>(a[i]) - b[i]));
    const double log_p = a[i] - za;
    d.kl += std::exp(log_p) * (log_p - (b[i] - zb));
  }
  return d;
}

class ProbeFile {
 public:
  void Add(const std::string& name, Logits logits) {
    probes_.emplace_back(name, std::move(logits));
  }
  const std::vector<std::pair<std::string, Logits>>& probes() const { return probes_; }

  const Logits* Find(const std::string& name) const {
    for (const auto& [key, logits] : probes_) {
      if (key == name) return &logits;
    }
    return nullptr;
  }

  bool Write(const char* path) const {
    std::FILE* file = std::fopen(path, "wb");
    if (file == nullptr) return false;
    bool ok = true;
    auto put = [&](const void* data, size_t size) {
      ok = ok && std::fwrite(data, 1, size, file) == size;
    };
    for (const auto& [name, logits] : probes_) {
      const uint32_t sizes[2] = {static_cast<uint32_t>(name.size()),
                                 static_cast<uint32_t>(logits.size())};
      put(sizes, sizeof(sizes));
      put(name.data(), name.size());
      put(logits.data(), logits.size() * sizeof(float));
    }
    return std::fclose(file) == 0 && ok;
  }

  bool Read(const char* path) {
    std::FILE* file = std::fopen(path, "rb");
    if (file == nullptr) return false;
    uint32_t sizes[2];
    bool ok = true;
    while (ok && std::fread(sizes, sizeof(sizes), 1, file) == 1) {
      std::string name(sizes[0], ' ');
      Logits logits(sizes[1]);
      ok = std::fread(name.data(), 1, name.size(), file) == name.size() &&
           std::fread(logits.data(), sizeof(float), logits.size(), file) == logits.size();
      Add(name, std::move(logits));
    }
    std::fclose(file);
    return ok;
  }

 private:
  std::vector<std::pair<std::string, Logits>> probes_;
};

}  // namespace turboquant::host_test

#endif  // TURBOQUANT_TESTS_HOST_PROBES_H_
