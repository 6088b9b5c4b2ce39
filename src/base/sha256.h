// SHA-256 (FIPS 180-4): names the model files of a record. Not for secrets.
#ifndef TURBOQUANT_BASE_SHA256_H_
#define TURBOQUANT_BASE_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace turboquant {

class Sha256 {
 public:
  void Update(const void* data, size_t n) {
    const auto* p = static_cast<const uint8_t*>(data);
    length_ += n;
    while (n > 0) {
      const size_t part = n < kChunk - filled_ ? n : kChunk - filled_;
      std::memcpy(buffer_ + filled_, p, part);
      filled_ += part;
      p += part;
      n -= part;
      if (filled_ == kChunk) Compress();
    }
  }

  // The digest in lower-case hexadecimal digits. Ends the computation.
  std::string Finish() {
    const uint64_t bits = length_ * 8;
    const uint8_t one = 0x80;
    Update(&one, 1);
    const uint8_t zero = 0;
    while (filled_ != kChunk - 8) Update(&zero, 1);
    uint8_t size[8];
    for (int i = 0; i < 8; ++i) size[i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
    Update(size, 8);
    std::string text;
    for (uint32_t word : state_) {
      for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[(word >> shift) & 15];
    }
    return text;
  }

 private:
  static constexpr size_t kChunk = 64;

  static uint32_t Turn(uint32_t x, int n) { return x >> n | x << (32 - n); }

  void Compress() {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) {
      const uint8_t* b = buffer_ + 4 * i;
      w[i] = static_cast<uint32_t>(b[0]) << 24 | static_cast<uint32_t>(b[1]) << 16 |
             static_cast<uint32_t>(b[2]) << 8 | b[3];
    }
    for (int i = 16; i < 64; ++i) {
      const uint32_t s0 = Turn(w[i - 15], 7) ^ Turn(w[i - 15], 18) ^ w[i - 15] >> 3;
      const uint32_t s1 = Turn(w[i - 2], 17) ^ Turn(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    std::array<uint32_t, 8> h = state_;
    for (int i = 0; i < 64; ++i) {
      const uint32_t s1 = Turn(h[4], 6) ^ Turn(h[4], 11) ^ Turn(h[4], 25);
      const uint32_t choice = (h[4] & h[5]) ^ (~h[4] & h[6]);
      const uint32_t t1 = h[7] + s1 + choice + kRound[i] + w[i];
      const uint32_t s0 = Turn(h[0], 2) ^ Turn(h[0], 13) ^ Turn(h[0], 22);
      const uint32_t majority = (h[0] & h[1]) ^ (h[0] & h[2]) ^ (h[1] & h[2]);
      h = {t1 + s0 + majority, h[0], h[1], h[2], h[3] + t1, h[4], h[5], h[6]};
    }
    for (int i = 0; i < 8; ++i) state_[i] += h[i];
    filled_ = 0;
  }

  // Fractional bits of the cube roots of the first 64 primes.
  static constexpr uint32_t kRound[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
      0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
      0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
      0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
      0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
      0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
      0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
      0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
      0xc67178f2};

  // Fractional bits of the square roots of the first 8 primes.
  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t buffer_[kChunk] = {};
  size_t filled_ = 0;
  uint64_t length_ = 0;
};

}  // namespace turboquant

#endif  // TURBOQUANT_BASE_SHA256_H_
