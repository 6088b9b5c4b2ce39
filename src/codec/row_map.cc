#include "codec/row_map.h"

#include <algorithm>
#include <utility>

#include "base/rng.h"
#include "codec/format.h"
#include "math/haar.h"
#include "math/rotation.h"

namespace turboquant {
namespace {

class IdentityMap : public RowMap {
 public:
  explicit IdentityMap(int d) : d_(d) {}
  void Forward(const float* in, float* out, const RowOps& ops) const override {
    std::copy_n(in, d_, out);
  }
  void Backward(const float* in, float* out, const RowOps& ops) const override {
    std::copy_n(in, d_, out);
  }

 private:
  int d_;
};

class HadamardMap : public RowMap {
 public:
  HadamardMap(int d, uint64_t seed) : rotation_(d, seed) {}
  void Forward(const float* in, float* out, const RowOps& ops) const override {
    ops.rotate(rotation_.view(), in, out);
  }
  void Backward(const float* in, float* out, const RowOps& ops) const override {
    ops.unrotate(rotation_.view(), in, out);
  }

 private:
  Rotation rotation_;
};

class MatrixMap : public RowMap {
 public:
  explicit MatrixMap(DenseMatrix matrix) : matrix_(std::move(matrix)) {}
  void Forward(const float* in, float* out, const RowOps& ops) const override {
    matrix_.Multiply(in, out);
  }
  void Backward(const float* in, float* out, const RowOps& ops) const override {
    matrix_.MultiplyTransposed(in, out);
  }

 private:
  DenseMatrix matrix_;
};

class SplitMap : public RowMap {
 public:
  SplitMap(RotationKind kind, int d, uint64_t seed, const std::vector<int>& channels)
      : order_(channels), first_(static_cast<int>(channels.size())) {
    for (int i = 0; i < d; ++i) {
      if (!std::binary_search(channels.begin(), channels.end(), i)) order_.push_back(i);
    }
    head_ = MakeRowMap(kind, first_, seed);
    tail_ = MakeRowMap(kind, d - first_, DeriveSeed(seed, 1));
  }

  void Forward(const float* in, float* out, const RowOps& ops) const override {
    float gathered[kMaxHeadDim];
    for (size_t i = 0; i < order_.size(); ++i) gathered[i] = in[order_[i]];
    head_->Forward(gathered, out, ops);
    tail_->Forward(gathered + first_, out + first_, ops);
  }

  void Backward(const float* in, float* out, const RowOps& ops) const override {
    float gathered[kMaxHeadDim];
    head_->Backward(in, gathered, ops);
    tail_->Backward(in + first_, gathered + first_, ops);
    for (size_t i = 0; i < order_.size(); ++i) out[order_[i]] = gathered[i];
  }

 private:
  std::vector<int> order_;  // channel of coordinate i before the maps
  int first_;
  std::unique_ptr<RowMap> head_;
  std::unique_ptr<RowMap> tail_;
};

}  // namespace

std::unique_ptr<RowMap> MakeRowMap(RotationKind kind, int d, uint64_t seed) {
  switch (kind) {
    case RotationKind::kHaar:
      return std::make_unique<MatrixMap>(DenseMatrix::Haar(d, seed));
    case RotationKind::kHadamard:
      return std::make_unique<HadamardMap>(d, seed);
    case RotationKind::kNone:
      break;
  }
  return std::make_unique<IdentityMap>(d);
}

std::unique_ptr<RowMap> MakeSplitMap(RotationKind kind, int d, uint64_t seed,
                                     const std::vector<int>& channels) {
  return std::make_unique<SplitMap>(kind, d, seed, channels);
}

std::unique_ptr<RowMap> MakeGaussianMap(int d, uint64_t seed) {
  return std::make_unique<MatrixMap>(DenseMatrix::Gaussian(d, seed));
}

uint64_t DeriveSeed(uint64_t seed, int purpose) {
  SplitMix64 random(~seed);
  for (int i = 0; i < purpose; ++i) random.Next();
  return random.Next();
}

}  // namespace turboquant
