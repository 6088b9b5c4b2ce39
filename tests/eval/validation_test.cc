// Validation on few rows: every cell is there, figures do not depend on threads, bounds bite.
#include "eval/validation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "codec/codec_spec.h"

namespace turboquant {
namespace {

ValidationResult RunRows(int rows, int threads, bool timing = false) {
  ValidationOptions options;
  options.rows = rows;
  options.threads = threads;
  options.timing = timing;
  auto result = Validate(options);
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.value();
}

TEST(Validation, EveryCellIsMeasuredAndWithinItsBound) {
  const ValidationResult result = RunRows(20000, 2);
  std::set<std::pair<std::string, int>> books, codecs;
  std::set<std::string> groups;
  for (const ValidationCheck& c : result.checks) {
    groups.insert(c.group);
    EXPECT_TRUE(c.ok()) << c.group << " " << c.subject << " d=" << c.head_dim << ": " << c.measured
                        << " in [" << c.low << ", " << c.high << "]";
    EXPECT_LT(c.low, c.high) << c.group << " " << c.subject;
    EXPECT_GT(c.samples, 0u);
    if (c.expected != 0) {
      EXPECT_GE(c.expected, c.low) << c.group << " " << c.subject << " d=" << c.head_dim;
      EXPECT_LE(c.expected, c.high) << c.group << " " << c.subject << " d=" << c.head_dim;
    }
    if (c.group == "lloyd-max") books.insert({c.subject, c.head_dim});
    if (c.group == "distortion") codecs.insert({c.subject, c.head_dim});
  }
  EXPECT_EQ(books.size(), 8u * 5);
  // 26 codecs at five lengths; the dense rotation at three, since it costs d^2 a row.
  EXPECT_EQ(codecs.size(), 26u * 5 + 3);
  EXPECT_EQ(groups, (std::set<std::string>{"lloyd-max", "distortion", "codebook", "inner product",
                                           "slope", "projection", "projection bias", "shannon"}));
  EXPECT_EQ(result.rate.size(), CodecRegistry().size());
  for (const RatePoint& p : result.rate) {
    EXPECT_GT(p.distortion, p.shannon) << p.spec;
    EXPECT_EQ(p.encode_ns, 0) << p.spec;
  }
  EXPECT_TRUE(result.ok());
}

TEST(Validation, FiguresDoNotDependOnThreads) {
  const ValidationResult one = RunRows(1000, 1), three = RunRows(1000, 3);
  ASSERT_EQ(one.checks.size(), three.checks.size());
  for (size_t i = 0; i < one.checks.size(); ++i) {
    EXPECT_EQ(one.checks[i].subject, three.checks[i].subject);
    EXPECT_EQ(one.checks[i].measured, three.checks[i].measured) << one.checks[i].subject;
  }
  for (size_t i = 0; i < one.rate.size(); ++i) {
    EXPECT_EQ(one.rate[i].distortion, three.rate[i].distortion) << one.rate[i].spec;
  }
}

TEST(Validation, ACheckIsOkWithinItsBoundsOnly) {
  ValidationCheck check{"g", "s", 1, 1, 1.0, 1.0, 0.99, 1.01};
  EXPECT_TRUE(check.ok());
  check.measured = 1.011;
  EXPECT_FALSE(check.ok());
  check.measured = 0.989;
  EXPECT_FALSE(check.ok());
  check.measured = std::nan("");
  EXPECT_FALSE(check.ok());
  ValidationResult result;
  EXPECT_TRUE(result.ok());
  result.checks.push_back(check);
  EXPECT_FALSE(result.ok());
}

TEST(Validation, ProgressRisesToOneAndRowsAreLimited) {
  ValidationOptions options;
  options.rows = 1000;
  options.threads = 2;
  options.timing = true;
  double last = 0;
  bool rising = true;
  options.progress = [&](double done, const std::string& what) {
    rising = rising && done > last && !what.empty();
    last = done;
  };
  const auto result = Validate(options);
  ASSERT_TRUE(result.ok());
  for (const RatePoint& p : result.value().rate) {
    EXPECT_GT(p.encode_ns, 1) << p.spec;
    EXPECT_GT(p.decode_ns, 1) << p.spec;
    EXPECT_GT(p.inner_product_ns, 1) << p.spec;
  }
  EXPECT_TRUE(rising);
  EXPECT_NEAR(last, 1, 1e-9);
  options.rows = 10;
  EXPECT_FALSE(Validate(options).ok());
}

}  // namespace
}  // namespace turboquant
