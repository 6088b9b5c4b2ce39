// What the machine can do, measured: the figures that a kernel's time is held against.
#ifndef TURBOQUANT_EVAL_MACHINE_H_
#define TURBOQUANT_EVAL_MACHINE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "eval/work_team.h"

namespace turboquant {

struct Machine {
  std::string cpu;  // its name, as the system gives it
  int threads = 1;
  size_t l2_bytes = 0;  // of one core; 0: unknown
  size_t l3_bytes = 0;  // as reported; a virtual machine may own a part of it only
  size_t memory_bytes = 0;
};

Machine ThisMachine();

// How much of the machine others use, between two moments.
class LoadMeter {
 public:
  LoadMeter() : start_(Now()) {}
  // Share of all processors' time since construction that went neither to this process, nor to
  // children it has waited for, nor to nobody. 0 where the system does not tell.
  double OthersShare() const;

 private:
  struct Use {
    double total = 0;
    double busy = 0;
    double ours = 0;
  };
  static Use Now();
  Use start_;
};

// Hertz of the calling core now: a chain of dependent additions, one a cycle.
double MeasureClock();

// Memory on large pages where the system has them, filled with random bits (1 MiB of them,
// repeated).
class Arena {
 public:
  // Empty if there is no memory. Every 16-bit word has its two highest bits clear: read as f16 it
  // is in [0, 2).
  Arena(size_t bytes, uint64_t seed);

  size_t size() const { return size_; }
  uint8_t* data() const { return data_.get(); }
  // The next `bytes` (<= size()) in a walk around the arena, 64-byte aligned: whatever was handed
  // out before is as far behind as the arena is large.
  uint8_t* Take(size_t bytes);

 private:
  struct Free {
    void operator()(uint8_t* p) const;
  };
  std::unique_ptr<uint8_t, Free> data_;
  size_t size_ = 0;
  size_t next_ = 0;
};

// Reads `bytes` (a multiple of 512) from p; the fastest loop of this processor, with and without
// prefetching `ahead` bytes (0: none). Returns a number that depends on all of them.
uint64_t ReadBytes(const uint8_t* p, size_t bytes, size_t ahead);

// Bytes a second that `threads` threads read together, each its share of fresh memory of the arena
// (about `bytes` in all): the better of the two loops.
double ReadBandwidth(WorkTeam* team, int threads, Arena* arena, size_t bytes);

// The same over `bytes` at p again and again by one thread: the bandwidth of a cache.
double CacheBandwidth(WorkTeam* team, const uint8_t* p, size_t bytes, double seconds);

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_MACHINE_H_
