// tq_compress, tq_compressed_info, tq_decompress: the way there and back, and damage.
#include <cstring>

#include "capi_fixture.h"
#include "codec/codec.h"

namespace turboquant::testing {
namespace {

struct Block {
  tq_buffer buffer = TQ_BUFFER_INIT;
  ~Block() { tq_buffer_free(&buffer); }
  std::vector<uint8_t> bytes() const {
    const auto* data = static_cast<const uint8_t*>(buffer.data);
    return {data, data + buffer.size};
  }
};

tq_array_info InfoOf(const Block& block) {
  tq_array_info info = {};
  info.struct_size = sizeof(info);
  EXPECT_EQ(tq_compressed_info(block.buffer.data, block.buffer.size, &info), TQ_OK)
      << tq_last_error();
  return info;
}

TEST(CApiArray, RoundTripIsTheCodecsRoundTrip) {
  const size_t shape[] = {3, 5, 192};
  const std::vector<float> x = NormalValues(3 * 5 * 192, 1);
  for (int head_dim : {0, 64}) {
    Block block;
    size_t invalid = 9;
    ASSERT_EQ(
        tq_compress(x.data(), shape, 3, "turbo3t", head_dim, nullptr, &block.buffer, &invalid),
        TQ_OK)
        << tq_last_error();
    EXPECT_EQ(invalid, 0u);
    const tq_array_info info = InfoOf(block);
    const int d = head_dim == 0 ? 192 : 64;
    EXPECT_EQ(info.head_dim, d);
    EXPECT_EQ(info.num_values, x.size());
    EXPECT_EQ(info.num_dims, 3u);
    EXPECT_EQ(std::memcmp(info.shape, shape, sizeof(shape)), 0);
    EXPECT_EQ(info.shape[3], 0u);
    EXPECT_EQ(info.rows, x.size() / d);
    EXPECT_STREQ(info.spec, "turbo3t");
    EXPECT_EQ(info.bits_per_value, 8.0 * block.buffer.size / x.size());
    EXPECT_LT(block.buffer.size, info.rows * info.row_bytes + 256);
    std::vector<float> got(x.size()), want(x.size());
    ASSERT_EQ(tq_decompress(block.buffer.data, block.buffer.size, got.data(), got.size()), TQ_OK);
    const auto codec = Codec::Create("turbo3t", d);
    std::vector<uint8_t> row(codec.value()->row_bytes());
    for (size_t i = 0; i < x.size(); i += d) {
      EXPECT_TRUE(codec.value()->Encode(&x[i], row.data()));
      codec.value()->Decode(row.data(), &want[i]);
    }
    EXPECT_EQ(got, want);
  }
}

TEST(CApiArray, EveryCutAndEveryAlteredByteIsFound) {
  const size_t shape[] = {4, 64};
  const std::vector<float> x = NormalValues(4 * 64, 1);
  Block block;
  ASSERT_EQ(tq_compress(x.data(), shape, 2, "turbo2", 0, nullptr, &block.buffer, nullptr), TQ_OK);
  const std::vector<uint8_t> good = block.bytes();
  std::vector<float> out(x.size(), 7.0f);
  for (size_t size = 0; size < good.size(); ++size) {
    const std::vector<uint8_t> cut(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_EQ(tq_decompress(size == 0 ? good.data() : cut.data(), size, out.data(), out.size()),
              TQ_ERROR_CORRUPT)
        << size;
  }
  for (size_t i = 0; i < good.size(); ++i) {
    std::vector<uint8_t> altered = good;
    altered[i] ^= 0x10;
    const tq_status status = tq_decompress(altered.data(), altered.size(), out.data(), out.size());
    const bool version = i >= 8 && i < 12;
    EXPECT_EQ(status, version ? TQ_ERROR_UNSUPPORTED : TQ_ERROR_CORRUPT) << "byte " << i;
  }
  EXPECT_EQ(out, std::vector<float>(x.size(), 7.0f)) << "damaged bytes reached the output";
  std::vector<uint8_t> longer = good;
  longer.push_back(0);
  EXPECT_TRUE(Fails(tq_decompress(longer.data(), longer.size(), out.data(), out.size()),
                    TQ_ERROR_CORRUPT, "too many bytes"));
  std::vector<uint8_t> altered = good;
  altered[150] ^= 1;  // a row
  EXPECT_TRUE(Fails(tq_decompress(altered.data(), altered.size(), out.data(), out.size()),
                    TQ_ERROR_CORRUPT, "rows 0 to 3"));
  EXPECT_EQ(tq_decompress(good.data(), good.size(), out.data(), out.size()), TQ_OK);
}

TEST(CApiArray, WrongShapesAndShortOutputsAreRefused) {
  const std::vector<float> x(256, 1.0f);
  Block block;
  const auto compress = [&](std::vector<size_t> shape, int head_dim) {
    return tq_compress(x.data(), shape.data(), shape.size(), "turbo3", head_dim, nullptr,
                       &block.buffer, nullptr);
  };
  EXPECT_TRUE(Fails(compress({4, 50}, 0), TQ_ERROR_INVALID_ARGUMENT, "64 values"));
  EXPECT_TRUE(Fails(compress({4, 64}, 48), TQ_ERROR_INVALID_ARGUMENT, "divisor"));
  EXPECT_TRUE(Fails(compress({0, 64}, 0), TQ_ERROR_INVALID_ARGUMENT, "dimension of 0"));
  EXPECT_TRUE(Fails(compress({SIZE_MAX / 2 + 1}, 64), TQ_ERROR_INVALID_ARGUMENT, "too large"));
  EXPECT_TRUE(Fails(compress({SIZE_MAX / 2, 64}, 0), TQ_ERROR_INVALID_ARGUMENT, "too large"));
  EXPECT_TRUE(
      Fails(compress(std::vector<size_t>(9, 64), 0), TQ_ERROR_INVALID_ARGUMENT, "num_dims"));
  const size_t shape[] = {4, 64};
  EXPECT_TRUE(Fails(tq_compress(x.data(), shape, 0, "turbo3", 0, nullptr, &block.buffer, nullptr),
                    TQ_ERROR_INVALID_ARGUMENT, "num_dims"));
  EXPECT_TRUE(Fails(tq_compress(x.data(), nullptr, 2, "turbo3", 0, nullptr, &block.buffer, nullptr),
                    TQ_ERROR_INVALID_ARGUMENT, "shape"));
  EXPECT_TRUE(Fails(tq_compress(x.data(), shape, 2, "turbo9", 0, nullptr, &block.buffer, nullptr),
                    TQ_ERROR_INVALID_ARGUMENT, "use one of"));
  EXPECT_TRUE(Fails(tq_compress(nullptr, shape, 2, "turbo3", 0, nullptr, &block.buffer, nullptr),
                    TQ_ERROR_INVALID_ARGUMENT, "x must"));
  EXPECT_EQ(block.buffer.data, nullptr);
  ASSERT_EQ(compress({4, 64}, 0), TQ_OK);
  std::vector<float> out(255);
  EXPECT_TRUE(Fails(tq_decompress(block.buffer.data, block.buffer.size, out.data(), out.size()),
                    TQ_ERROR_BUFFER_TOO_SMALL, "255 values, 256"));
  EXPECT_TRUE(Fails(tq_decompress("no row file at all", 18, out.data(), out.size()),
                    TQ_ERROR_CORRUPT, "not a row file"));
}

TEST(CApiArray, TheBlockComesFromTheAllocator) {
  CountingAllocator counting;
  const std::vector<float> x(256, 1.0f);
  const size_t shape[] = {4, 64};
  tq_buffer buffer = TQ_BUFFER_INIT;
  ASSERT_EQ(tq_compress(x.data(), shape, 2, "turbo3", 0, counting.options(), &buffer, nullptr),
            TQ_OK);
  EXPECT_EQ(counting.live_blocks(), 1u);
  tq_buffer_free(&buffer);
  EXPECT_EQ(buffer.data, nullptr);
  tq_buffer_free(&buffer);
  counting.FailAfter(0);
  EXPECT_TRUE(
      Fails(tq_compress(x.data(), shape, 2, "turbo3", 0, counting.options(), &buffer, nullptr),
            TQ_ERROR_OUT_OF_MEMORY, "bytes"));
  EXPECT_EQ(buffer.data, nullptr);
}

}  // namespace
}  // namespace turboquant::testing
