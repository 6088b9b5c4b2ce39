// Policy: which format each side of each layer gets, and what stays exact.
//
// Text form: comma-separated key=value, e.g. "k=turbo4,v=turbo3,sink=4,tail=128,center=on,swa=f16".
//   k, v      format of keys / values: turbo2 turbo3 turbo4, turbo2t turbo3t turbo4t, turbo8, f16
//   sink      first cells of a stream that stay exact, 0..64
//   tail      newest cells that stay exact, 0..4096
//   center    on | off: subtract the frozen key mean of a page before coding
//   page      cells that share one key mean, 64..4096, a power of two
//   swa       format of sliding-window layers: f16 (default) or auto (= as k and v)
// A bare format name ("turbo3") sets k and v; a bare preset name sets all:
//   quality    k=turbo4,v=turbo4
//   balanced   k=turbo4,v=turbo3 (the default)
//   small      k=turbo3,v=turbo3
// with the defaults of the struct below for the rest. The presets are provisional until `turboquant
// eval` sets them. Keys may follow a name: "turbo3,tail=0". Later words win. Blanks around words
// and '=' are ignored. ToString() prints the canonical form, which parses back to the same policy.
#ifndef TURBOQUANT_KVCACHE_POLICY_H_
#define TURBOQUANT_KVCACHE_POLICY_H_

#include <string>
#include <string_view>

#include "base/status.h"
#include "codec/format.h"

namespace turboquant {

struct Policy {
  Format k = Format::kTurbo4;
  Format v = Format::kTurbo3;
  int sink = 4;
  int tail = 128;
  bool center = true;
  int page = 256;
  bool compress_swa = false;  // swa=auto

  bool operator==(const Policy&) const = default;

  // Nothing to do: both sides f16.
  bool pass_through() const { return !IsCoded(k) && !IsCoded(v); }

  // Errors name the offending word, what is allowed, and an example.
  static Result<Policy> Parse(std::string_view text);
  std::string ToString() const;
};

}  // namespace turboquant

#endif  // TURBOQUANT_KVCACHE_POLICY_H_
