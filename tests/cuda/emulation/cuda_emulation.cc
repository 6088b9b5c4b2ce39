#include "cuda_emulation.h"

#include <setjmp.h>
#include <ucontext.h>

#include <memory>
#include <vector>

namespace emulation {

dim3 thread_index, block_index, grid_size;

namespace {

constexpr int kMaxThreads = 512;
constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kMaxDynamicBytes = 256 << 10;

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  bool there;
};

struct Fiber {
  jmp_buf here;
  bool started = false, done = false;
  std::vector<std::vector<Copy>> groups{1};  // the last one is not committed yet
};

// A meeting of a number of fibers.
struct Meeting {
  int arrived = 0;
  int generation = 0;
  void* slots[kMaxThreads];
};

struct Machine {
  alignas(128) uint8_t dynamic[kMaxDynamicBytes];
  Fiber fibers[kMaxThreads];
  std::unique_ptr<uint8_t[]> stacks{new uint8_t[kMaxThreads * kStackBytes]};
  Meeting block, warps[kMaxThreads / kWarp];
  int threads = 0, current = 0;
  uint64_t steps = 0;  // meetings concluded: no progress is a deadlock
  jmp_buf scheduler;
  ucontext_t start;
  const std::function<void()>* kernel = nullptr;
};

Machine* machine = nullptr;

void Yield() {
  Fiber& fiber = machine->fibers[machine->current];
  if (_setjmp(fiber.here) == 0) _longjmp(machine->scheduler, 1);
}

void Body() {
  (*machine->kernel)();
  machine->fibers[machine->current].done = true;
  _longjmp(machine->scheduler, 1);
}

// On the fiber's own stack; back in the scheduler once the fiber yields or ends.
void Start(int thread) {
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = machine->stacks.get() + static_cast<size_t>(thread) * kStackBytes;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, Body, 0);
  setcontext(&context);
}

void Meet(Meeting* meeting, int parties, int place, void* slot, void (*act)(void**)) {
  meeting->slots[place] = slot;
  if (++meeting->arrived == parties) {
    act(meeting->slots);
    meeting->arrived = 0;
    ++meeting->generation;
    ++machine->steps;
    return;
  }
  const int generation = meeting->generation;
  while (meeting->generation == generation) Yield();
}

void FinishGroups(Fiber* fiber, size_t keep) {
  while (fiber->groups.size() > keep + 1) {
    for (const Copy& copy : fiber->groups.front()) {
      if (copy.there) {
        std::memcpy(copy.to, copy.from, copy.bytes);
      } else {
        std::memset(copy.to, 0, copy.bytes);
      }
    }
    fiber->groups.erase(fiber->groups.begin());
  }
}

// Lets thread i run until it waits or ends.
void Resume(int i) {
  machine->current = i;
  thread_index = dim3(static_cast<unsigned>(i), 0, 0);
  if (_setjmp(machine->scheduler) != 0) return;
  if (machine->fibers[i].started) _longjmp(machine->fibers[i].here, 1);
  machine->fibers[i].started = true;
  Start(i);
}

// All threads of a CTA in turn until they are done; false: nobody gets on.
bool RunBlock() {
  for (;;) {
    const uint64_t before = machine->steps;
    bool running = false, changed = false;
    for (int i = 0; i < machine->threads; ++i) {
      if (machine->fibers[i].done) continue;
      running = true;
      changed = changed || !machine->fibers[i].started;
      Resume(i);
      changed = changed || machine->fibers[i].done;
    }
    if (!running) return true;
    if (machine->steps == before && !changed) return false;
  }
}

}  // namespace

uint8_t* DynamicBytes() { return machine->dynamic; }

void WaitForBlock() {
  Meet(&machine->block, machine->threads, machine->current, nullptr, [](void**) {});
}

void WithWarp(void* slot, void (*act)(void** slots)) {
  Meet(&machine->warps[machine->current / kWarp], kWarp, machine->current % kWarp, slot, act);
}

void QueueCopy(void* to, const void* from, size_t bytes, bool there) {
  machine->fibers[machine->current].groups.back().push_back({to, from, bytes, there});
}

void CommitCopies() { machine->fibers[machine->current].groups.emplace_back(); }

void WaitCopies(int pending) {
  FinishGroups(&machine->fibers[machine->current], static_cast<size_t>(pending));
}

bool Launch(dim3 grid, int threads, size_t dynamic_bytes, const std::function<void()>& kernel) {
  if (threads > kMaxThreads || threads % kWarp != 0 || dynamic_bytes > kMaxDynamicBytes) {
    return false;
  }
  const auto owner = std::make_unique<Machine>();
  machine = owner.get();
  machine->threads = threads;
  machine->kernel = &kernel;
  grid_size = grid;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = dim3(x, y, z);
        std::memset(machine->dynamic, 0xFF, dynamic_bytes);
        machine->block = Meeting();
        for (Meeting& warp : machine->warps) warp = Meeting();
        for (int i = 0; i < threads; ++i) machine->fibers[i] = Fiber();
        if (!RunBlock()) return false;
      }
    }
  }
  return true;
}

}  // namespace emulation
