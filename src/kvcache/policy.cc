#include "kvcache/policy.h"

#include <charconv>
#include <string>
#include <string_view>
#include <system_error>

namespace turboquant {
namespace {

constexpr int kMaxSink = 64;
constexpr int kMaxTail = 4096;
constexpr int kMinPage = 64;
constexpr int kMaxPage = 4096;

std::string_view Trim(std::string_view s) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t first = s.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return s.substr(first, s.find_last_not_of(kSpace) - first + 1);
}

// The offending word for a message: short, and nothing that would disturb a terminal.
std::string Quote(std::string_view word) {
  std::string quoted = "'";
  for (char c : word.substr(0, 40)) quoted += c >= ' ' && c <= '~' ? c : '?';
  return quoted + (word.size() > 40 ? "...'" : "'");
}

Status BadValue(std::string_view word, std::string_view allowed, std::string_view example) {
  std::string message = "bad policy value in " + Quote(word) + ": " + std::string(allowed);
  return InvalidArgument(message + ", e.g. " + std::string(example) + ".");
}

// A whole number of [min, max] and nothing else.
bool ParseInt(std::string_view text, int min, int max, int* out) {
  int value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value < min || value > max) return false;
  *out = value;
  return true;
}

// Provisional: these are starting points of theory until `turboquant eval` sets them by
// measurement. "balanced" is the default policy.
bool FindPreset(std::string_view name, Policy* out) {
  Policy preset;
  if (name == "quality") {
    preset.k = Format::kTurbo4;
    preset.v = Format::kTurbo4;
  } else if (name == "balanced") {
    preset.k = Format::kTurbo4;
    preset.v = Format::kTurbo3;
  } else if (name == "small") {
    preset.k = Format::kTurbo3;
    preset.v = Format::kTurbo3;
  } else {
    return false;
  }
  *out = preset;
  return true;
}

Status ApplyName(std::string_view name, Policy* policy) {
  if (FindPreset(name, policy)) return OkStatus();
  const Result<Format> format = ParseFormat(name);
  if (format.ok()) {
    policy->k = format.value();
    policy->v = format.value();
    return OkStatus();
  }
  return InvalidArgument("unknown word " + Quote(name) +
                         " in the policy: use a preset (quality, balanced, small), a format (" +
                         std::string(kFormatNames) + ") or key=value, e.g. balanced,tail=256.");
}

Status ApplyFormat(std::string_view word, std::string_view value, Format* out) {
  const Result<Format> format = ParseFormat(value);
  if (!format.ok()) {
    return BadValue(word, "a format is one of " + std::string(kFormatNames), "k=turbo4");
  }
  *out = format.value();
  return OkStatus();
}

Status ApplyPair(std::string_view word, std::string_view key, std::string_view value,
                 Policy* policy) {
  if (key == "k") return ApplyFormat(word, value, &policy->k);
  if (key == "v") return ApplyFormat(word, value, &policy->v);
  if (key == "sink") {
    if (ParseInt(value, 0, kMaxSink, &policy->sink)) return OkStatus();
    return BadValue(word, "sink is a whole number from 0 to 64", "sink=4");
  }
  if (key == "tail") {
    if (ParseInt(value, 0, kMaxTail, &policy->tail)) return OkStatus();
    return BadValue(word, "tail is a whole number from 0 to 4096", "tail=128");
  }
  if (key == "page") {
    int page = 0;
    if (ParseInt(value, kMinPage, kMaxPage, &page) && (page & (page - 1)) == 0) {
      policy->page = page;
      return OkStatus();
    }
    return BadValue(word, "page is a power of two from 64 to 4096", "page=256");
  }
  if (key == "center") {
    if (value != "on" && value != "off") {
      return BadValue(word, "center is on or off", "center=on");
    }
    policy->center = value == "on";
    return OkStatus();
  }
  if (key == "swa") {
    if (value != "f16" && value != "auto") {
      return BadValue(word, "swa is f16 or auto", "swa=f16");
    }
    policy->compress_swa = value == "auto";
    return OkStatus();
  }
  return InvalidArgument("unknown key in " + Quote(word) +
                         ": the keys of a policy are k, v, sink, tail, center, page and swa, "
                         "e.g. k=turbo4,v=turbo3,tail=128.");
}

}  // namespace

Result<Policy> Policy::Parse(std::string_view text) {
  Policy policy;
  size_t start = 0;
  while (start <= text.size()) {
    const size_t comma = text.find(',', start);
    const size_t stop = comma == std::string_view::npos ? text.size() : comma;
    const std::string_view word = Trim(text.substr(start, stop - start));
    start = stop + 1;
    if (word.empty()) {
      return InvalidArgument("empty word in the policy " + Quote(text) +
                             ": give a preset (quality, balanced, small), a format or key=value "
                             "between commas, e.g. k=turbo4,v=turbo3.");
    }
    const size_t equals = word.find('=');
    const Status status =
        equals == std::string_view::npos
            ? ApplyName(word, &policy)
            : ApplyPair(word, Trim(word.substr(0, equals)), Trim(word.substr(equals + 1)), &policy);
    if (!status.ok()) return status;
  }
  return policy;
}

std::string Policy::ToString() const {
  std::string text = "k=";
  text += FormatName(k);
  text += ",v=";
  text += FormatName(v);
  text += ",sink=" + std::to_string(sink) + ",tail=" + std::to_string(tail);
  text += center ? ",center=on" : ",center=off";
  text += ",page=" + std::to_string(page);
  text += compress_swa ? ",swa=auto" : ",swa=f16";
  return text;
}

}  // namespace turboquant
