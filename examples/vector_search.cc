// Nearest neighbours by inner product over compressed vectors: 5000 vectors of 256 values in 3
// bits, and how often the true best is among the best ten.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <numeric>
#include <random>
#include <span>
#include <turboquant/turboquant.hpp>
#include <vector>

namespace {

constexpr std::size_t kDim = 256;
constexpr std::size_t kVectors = 5000;
constexpr std::size_t kQueries = 50;

std::vector<float> UnitVectors(std::size_t n, std::mt19937* random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(n * kDim);
  for (std::size_t i = 0; i < n; ++i) {
    const std::span<float> row(&x[i * kDim], kDim);
    float energy = 0;
    for (float& value : row) {
      value = normal(*random);
      energy += value * value;
    }
    for (float& value : row) value /= std::sqrt(energy);
  }
  return x;
}

// Indices of the k largest.
std::vector<std::size_t> Best(const std::vector<float>& scores, std::size_t k) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k), order.end(),
                    [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  order.resize(k);
  return order;
}

int Run() {
  std::mt19937 random(7);
  const std::vector<float> vectors = UnitVectors(kVectors, &random);
  const std::vector<float> queries = UnitVectors(kQueries, &random);

  const tq::Codec codec("turbo3", kDim);
  const std::vector<std::byte> rows = codec.Encode(vectors);

  std::size_t found = 0;
  for (std::size_t q = 0; q < kQueries; ++q) {
    const std::span<const float> query(&queries[q * kDim], kDim);
    std::vector<float> exact(kVectors);
    for (std::size_t i = 0; i < kVectors; ++i) {
      exact[i] = std::inner_product(query.begin(), query.end(), &vectors[i * kDim], 0.0f);
    }
    const std::vector<std::size_t> best = Best(codec.InnerProducts(query, rows), 10);
    found += std::find(best.begin(), best.end(), Best(exact, 1)[0]) != best.end() ? 1 : 0;
  }
  std::printf("%zu vectors of %zu values in %.3f bits a value: %zu bytes\n", kVectors, kDim,
              codec.bits_per_value(), rows.size());
  std::printf("the true best is among the best ten for %zu of %zu queries\n", found, kQueries);
  return found * 10 >= kQueries * 9 ? 0 : 1;
}

}  // namespace

int main() {
  try {
    return Run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
